//! Durations, sizes and shares as a configuration writes them.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{IntoDeserializer, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A length of time: `250ms`, `10s`, `5m`, `12h`, `30d`; `0` is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Span(pub Duration);

/// A number of bytes: `512`, `16KiB`, `1MiB`; `0` is none.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Size(pub u64);

/// A part of a whole: `10%`, or an absolute count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Share {
    /// Per cent of the whole, 1–100.
    Percent(u8),
    /// An absolute count.
    Count(u32),
}

impl Span {
    /// Whole seconds.
    pub const fn secs(seconds: u64) -> Span {
        Span(Duration::from_secs(seconds))
    }

    /// The duration, unless it is `0` and so means none.
    pub fn limit(self) -> Option<Duration> {
        (!self.0.is_zero()).then_some(self.0)
    }
}

impl Size {
    /// Whole kibibytes.
    pub const fn kib(kibibytes: u64) -> Size {
        Size(kibibytes * 1024)
    }

    /// The number, unless it is `0` and so means none.
    pub fn limit(self) -> Option<u64> {
        (self.0 != 0).then_some(self.0)
    }
}

impl Share {
    /// The share of `whole`, rounded up and at least 1.
    pub fn of(self, whole: u32) -> u32 {
        let share = match self {
            Share::Percent(percent) => (u64::from(whole) * u64::from(percent)).div_ceil(100),
            Share::Count(count) => u64::from(count),
        };
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }
}

const SPAN_UNITS: [(&str, u64); 5] =
    [("ms", 1), ("s", 1000), ("m", 60_000), ("h", 3_600_000), ("d", 86_400_000)];
const SIZE_UNITS: [(&str, u64); 8] = [
    ("", 1),
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("KB", 1000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
];

/// `12h` → 12 × the factor of `h`, if the unit is one of `units`.
fn scaled(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn parse_span(text: &str) -> Option<Span> {
    match text {
        "0" => Some(Span::default()),
        // Ten years are for ever, and no clock overflows when they are added to it.
        _ => scaled(text, &SPAN_UNITS)
            .filter(|millis| *millis <= 3650 * 86_400_000)
            .map(|millis| Span(Duration::from_millis(millis))),
    }
}

fn parse_size(text: &str) -> Option<Size> {
    scaled(text, &SIZE_UNITS).map(Size)
}

fn parse_share(text: &str) -> Option<Share> {
    match text.strip_suffix('%') {
        Some(percent) => {
            percent.trim().parse().ok().filter(|p| (1..=100).contains(p)).map(Share::Percent)
        }
        None => text.parse().ok().map(Share::Count),
    }
}

const SPAN_FORM: &str = "a duration such as 250ms, 10s, 5m, 12h or 30d (0 = none)";
const SIZE_FORM: &str = "a size such as 512, 16KiB or 1MiB (0 = none)";
const SHARE_FORM: &str = "a share such as 10%, or a count";

impl fmt::Display for Span {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let millis = u64::try_from(self.0.as_millis()).unwrap_or(u64::MAX);
        if millis == 0 {
            return formatter.write_str("0s");
        }
        let largest = SPAN_UNITS.iter().rev().find(|(_, factor)| millis % factor == 0);
        let (unit, factor) = largest.unwrap_or(&SPAN_UNITS[0]);
        write!(formatter, "{}{unit}", millis / factor)
    }
}

impl fmt::Display for Size {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return formatter.write_str("0");
        }
        let largest =
            SIZE_UNITS[2..5].iter().rev().find(|(_, factor)| self.0.is_multiple_of(*factor));
        let (unit, factor) = largest.unwrap_or(&SIZE_UNITS[0]);
        write!(formatter, "{}{unit}", self.0 / factor)
    }
}

impl fmt::Display for Share {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Share::Percent(percent) => write!(formatter, "{percent}%"),
            Share::Count(count) => write!(formatter, "{count}"),
        }
    }
}

/// Reads a unit from a string or from a bare integer.
fn read<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    form: &'static str,
    parse: fn(&str) -> Option<T>,
) -> Result<T, D::Error> {
    struct Written<T>(&'static str, fn(&str) -> Option<T>);

    impl<T> Visitor<'_> for Written<T> {
        type Value = T;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            formatter.write_str(self.0)
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<T, E> {
            (self.1)(text.trim()).ok_or_else(|| E::custom(format_args!("expected {}", self.0)))
        }

        fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }

        fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<T, E> {
            self.visit_str(&number.to_string())
        }
    }

    deserializer.deserialize_any(Written(form, parse))
}

macro_rules! written_as_text {
    ($type:ident, $parse:ident, $form:ident) => {
        impl fmt::Debug for $type {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, formatter)
            }
        }

        impl Serialize for $type {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                read(deserializer, $form, $parse)
            }
        }

        impl std::str::FromStr for $type {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                $parse(text).ok_or($form)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> Cow<'static, str> {
                stringify!($type).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "description": $form, "type": ["string", "integer"] })
            }
        }
    };
}

written_as_text!(Span, parse_span, SPAN_FORM);
written_as_text!(Size, parse_size, SIZE_FORM);
written_as_text!(Share, parse_share, SHARE_FORM);

/// `one` or `[one, two]`: a list that may be written as its only element.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct OneOrMany<T>(pub Vec<T>);

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        OneOrMany(Vec::new())
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Written<T>(std::marker::PhantomData<T>);

        impl<'de, T: Deserialize<'de>> Visitor<'de> for Written<T> {
            type Value = OneOrMany<T>;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("one value or a list of them")
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Self::Value, A::Error> {
                let mut items = Vec::new();
                while let Some(item) = seq.next_element()? {
                    items.push(item);
                }
                Ok(OneOrMany(items))
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
                T::deserialize(serde::de::value::StrDeserializer::new(text))
                    .map(|item| OneOrMany(vec![item]))
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(
                self,
                map: A,
            ) -> Result<Self::Value, A::Error> {
                let map = serde::de::value::MapAccessDeserializer::new(map);
                T::deserialize(map).map(|item| OneOrMany(vec![item]))
            }

            // The other scalars go to `T`, whose complaint names what it wants.
            fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(|item| OneOrMany(vec![item]))
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(|item| OneOrMany(vec![item]))
            }

            fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(|item| OneOrMany(vec![item]))
            }

            fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Self::Value, E> {
                T::deserialize(value.into_deserializer()).map(|item| OneOrMany(vec![item]))
            }
        }

        deserializer.deserialize_any(Written(std::marker::PhantomData))
    }
}

impl<T: JsonSchema> JsonSchema for OneOrMany<T> {
    fn schema_name() -> Cow<'static, str> {
        format!("OneOrMany_{}", T::schema_name()).into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let item = generator.subschema_for::<T>();
        json_schema!({ "anyOf": [item, { "type": "array", "items": item }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_and_print() {
        for (text, millis) in
            [("250ms", 250), ("10s", 10_000), ("5m", 300_000), ("12h", 43_200_000)]
        {
            let span: Span = text.parse().unwrap();
            assert_eq!(span.0, Duration::from_millis(millis));
            assert_eq!(span.to_string(), text);
        }
        assert_eq!("0".parse::<Span>().unwrap().limit(), None);
        for bad in ["10", "-1s", "1.5s", "s", "10 parsecs", "3651d", "99999999999999999999s"] {
            assert!(bad.parse::<Span>().is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_read_and_print() {
        assert_eq!("16KiB".parse::<Size>().unwrap().0, 16_384);
        assert_eq!("512".parse::<Size>().unwrap().0, 512);
        assert_eq!(Size(1 << 20).to_string(), "1MiB");
        assert!("16kibble".parse::<Size>().is_err());
    }

    #[test]
    fn shares_round_up_and_are_at_least_one() {
        assert_eq!(Share::Percent(10).of(15), 2);
        assert_eq!(Share::Percent(10).of(1), 1);
        assert_eq!(Share::Percent(100).of(7), 7);
        assert!("0%".parse::<Share>().is_err());
        assert!("101%".parse::<Share>().is_err());
    }
}
