//! Lines on their way to the output: bounded, and written by a thread of its own, so
//! that nobody ever waits for a slow reader. What does not fit is dropped and counted.
//!
//! Whoever writes a line wakes the writer only if it sleeps for want of lines. Behind
//! what it has written it lets more gather for a moment: many lines are then one call.

use std::io::{self, Write};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// How many bytes may wait for the writer.
const ROOM: usize = 2 * 1024 * 1024;

/// How many make it write without waiting for more.
const MANY: usize = ROOM / 2;

/// How long lines may gather behind others: nobody who reads along sees it.
const GATHERING: Duration = Duration::from_millis(5);

/// How much memory the writer keeps while there is nothing to write.
const KEPT: usize = 64 * 1024;

/// The way to the writer, which ends with it.
pub(super) struct Queue(Arc<Shared>);

#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    /// Wakes the writer.
    due: Condvar,
    /// Wakes those who wait until all is written.
    written: Condvar,
}

#[derive(Default)]
struct State {
    lines: Vec<u8>,
    /// How many lines there was no room for, since that was last told.
    dropped: u64,
    /// The writer sleeps until there is something to do.
    is_idle: bool,
    /// How often all that was there had to be written, and how often it was.
    flushes: u64,
    flushed: u64,
    is_closed: bool,
}

impl Queue {
    /// A queue to `output`; `lost` makes the line that tells how many were dropped.
    ///
    /// # Errors
    /// If the thread cannot be started.
    pub(super) fn to(
        output: impl Write + Send + 'static,
        lost: impl Fn(u64) -> Vec<u8> + Send + 'static,
    ) -> io::Result<Queue> {
        let shared = Arc::new(Shared::default());
        let writers = Arc::clone(&shared);
        thread::Builder::new()
            .name("log".to_owned())
            .spawn(move || writers.write(output, &lost))?;
        Ok(Queue(shared))
    }

    /// Takes a line, if there is room.
    pub(super) fn push(&self, line: &[u8]) {
        let Shared { due, .. } = &*self.0;
        let mut state = self.0.state();
        let before = state.lines.len();
        if before + line.len() > ROOM {
            state.dropped += 1;
            return;
        }
        state.lines.extend_from_slice(line);
        let crosses = before < MANY && state.lines.len() >= MANY;
        if std::mem::take(&mut state.is_idle) || crosses {
            drop(state);
            due.notify_one();
        }
    }

    /// Waits until everything that was taken so far is written, at most that long.
    pub(super) fn flush(&self, most: Duration) {
        let deadline = Instant::now() + most;
        let mut state = self.0.state();
        state.flushes += 1;
        let ours = state.flushes;
        self.0.due.notify_one();
        while state.flushed < ours {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.0.written.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Drop for Queue {
    fn drop(&mut self) {
        self.0.state().is_closed = true;
        self.0.due.notify_one();
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        // It is whole at any time, whoever panicked.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer. A reader that is gone must not end the process, so what cannot be
    /// written is lost.
    fn write(&self, mut output: impl Write, lost: &dyn Fn(u64) -> Vec<u8>) {
        let mut lines = Vec::new();
        loop {
            let mut state = self.state();
            while !state.is_due() {
                state.is_idle = true;
                state = self.due.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            state.is_idle = false;
            std::mem::swap(&mut state.lines, &mut lines);
            let dropped = std::mem::take(&mut state.dropped);
            let (flushes, is_closed) = (state.flushes, state.is_closed);
            drop(state);

            let _ = output.write_all(&lines);
            if dropped > 0 {
                let _ = output.write_all(&lost(dropped));
            }
            let _ = output.flush();
            lines.clear();
            lines.shrink_to(KEPT);

            let mut state = self.state();
            state.flushed = flushes;
            self.written.notify_all();
            if is_closed {
                return;
            }
            let gathering = |state: &mut State| !state.is_urgent();
            let gathered = self.due.wait_timeout_while(state, GATHERING, gathering);
            drop(gathered);
        }
    }
}

impl State {
    fn is_due(&self) -> bool {
        !self.lines.is_empty() || self.dropped > 0 || self.is_urgent()
    }

    /// Whether nothing more may be waited for.
    fn is_urgent(&self) -> bool {
        self.is_closed || self.flushes > self.flushed || self.lines.len() >= MANY
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

    use super::*;

    /// Tells of each write, and waits with it until it may.
    struct Output {
        told: SyncSender<Vec<u8>>,
        may: Receiver<()>,
    }

    impl Write for Output {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.told.send(bytes.to_vec());
            let _ = self.may.recv();
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn queue() -> (Queue, Receiver<Vec<u8>>, SyncSender<()>) {
        let (told, writes) = sync_channel(100);
        let (let_go, may) = sync_channel(100);
        let lost = |count| format!("lost {count}\n").into_bytes();
        (Queue::to(Output { told, may }, lost).unwrap(), writes, let_go)
    }

    #[test]
    fn lines_that_gather_are_written_together_and_in_order() {
        let (queue, writes, let_go) = queue();
        queue.push(b"1\n");
        assert_eq!(writes.recv().unwrap(), b"1\n");
        for line in 2..5 {
            queue.push(format!("{line}\n").as_bytes());
        }
        let_go.send(()).unwrap();
        assert_eq!(writes.recv().unwrap(), b"2\n3\n4\n");
        let_go.send(()).unwrap();
        queue.push(b"5\n");
        let_go.send(()).unwrap();
        queue.flush(Duration::from_secs(5));
        assert_eq!(writes.try_recv().unwrap(), b"5\n");
    }

    #[test]
    fn a_stuck_output_blocks_nobody_and_what_is_lost_is_told() {
        let (queue, writes, let_go) = queue();
        let line = [b'x'; 1024];
        queue.push(&line);
        writes.recv().unwrap();
        for _ in 0..ROOM / line.len() + 10 {
            queue.push(&line);
        }
        let began = Instant::now();
        queue.flush(Duration::from_millis(20));
        assert!(began.elapsed() >= Duration::from_millis(20), "it was written?");
        drop(let_go);
        assert_eq!(writes.recv().unwrap().len(), ROOM);
        assert_eq!(writes.recv().unwrap(), b"lost 10\n");
    }

    #[test]
    fn what_was_taken_is_written_when_the_queue_ends() {
        let (queue, writes, let_go) = queue();
        queue.push(b"last\n");
        drop((queue, let_go));
        assert_eq!(writes.recv().unwrap(), b"last\n");
        assert!(writes.recv().is_err(), "the writer is still there");
    }

    #[test]
    fn threads_do_not_mix_their_lines() {
        let (told, writes) = sync_channel(10_000);
        let (let_go, may) = sync_channel::<()>(1);
        drop(let_go);
        let queue = Queue::to(Output { told, may }, |_| Vec::new()).unwrap();
        thread::scope(|scope| {
            for thread in 0..4 {
                let queue = &queue;
                scope.spawn(move || {
                    for line in 0..1000 {
                        queue.push(format!("{thread} {line}\n").as_bytes());
                    }
                });
            }
        });
        queue.flush(Duration::from_secs(5));
        let written = String::from_utf8(writes.try_iter().flatten().collect()).unwrap();
        for thread in 0..4 {
            let prefix = format!("{thread} ");
            let lines: Vec<_> = written.lines().filter(|line| line.starts_with(&prefix)).collect();
            let expected: Vec<_> = (0..1000).map(|line| format!("{thread} {line}")).collect();
            assert_eq!(lines, expected);
        }
    }
}
