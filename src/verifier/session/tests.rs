//! Of what the file says, and of cookies; stores are asked in `tests/it`.
