//! The one read buffer of a worker thread, lent to a relay for one poll: an
//! idle connection owns none.

use std::cell::Cell;
use std::ops::{Deref, DerefMut};

/// How much one read takes at most.
pub(super) const SIZE: usize = 64 * 1024;

thread_local! {
    static SPARE: Cell<Vec<u8>> = const { Cell::new(Vec::new()) };
}

/// The buffer, until dropped.
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    /// Takes the thread's buffer, or a new one if it is lent already.
    pub(super) fn borrow() -> Scratch {
        let mut buffer = SPARE.try_with(Cell::take).unwrap_or_default();
        if buffer.len() < SIZE {
            buffer = vec![0; SIZE];
        }
        Scratch(buffer)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.0);
        // While the thread ends there is no place to put it back: it is freed.
        let _ = SPARE.try_with(|spare| spare.set(buffer));
    }
}

impl Deref for Scratch {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl DerefMut for Scratch {
    fn deref_mut(&mut self) -> &mut [u8] {
        &mut self.0
    }
}
