//! What becomes of a client's stream once its 101 is written.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::gate::Answering;
use super::login::Login;
use super::session::Session;
use super::slots::{Open, Unauthenticated};
use crate::relay::frame::Opcode;
use crate::relay::{CLOSING, Endpoint};
use crate::stream::Stream;

/// A connection's life from one of its stages on: what comes of a stage is the next.
/// It is one task, which is never larger than the stage that it is in: a relay may last
/// for days.
pub struct Stage(Pin<Box<dyn Future<Output = Option<Stage>> + Send>>);

impl Stage {
    /// The stage that `future` is.
    pub fn new(future: impl Future<Output = Option<Stage>> + Send + 'static) -> Stage {
        Stage(Box::pin(future))
    }
}

impl Future for Stage {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        while let Some(next) = ready!(self.0.as_mut().poll(context)) {
            *self = next;
        }
        Poll::Ready(())
    }
}

/// The rest of an upgraded connection's life.
pub struct After {
    /// What is to be done.
    pub(super) task: Task,
    /// The connection's parts in the counts, given back at the end.
    pub(super) slots: (Option<Open>, Option<Unauthenticated>),
    /// A drain waits for what is in no registry.
    pub(super) answering: Option<Answering>,
}

/// What is to be done with the stream.
pub(super) enum Task {
    /// Move data between client and upstream.
    Relay { session: Box<Session>, upstream: Stream, ahead: Bytes },
    /// Read the first message, and go on from there.
    Login(Box<Login>),
    /// Say why not, and close.
    Refuse { message: Option<(bool, Vec<u8>)>, code: u16, text: &'static str },
}

impl After {
    pub(super) fn new(task: Task) -> After {
        After { task, slots: (None, None), answering: None }
    }

    /// Has it done, to the end of the connection.
    pub fn stage(self, client: Stream, client_ahead: Bytes) -> Stage {
        let (open, unauthenticated) = self.slots;
        let answering = self.answering;
        match self.task {
            Task::Relay { session, upstream, ahead } => {
                drop((unauthenticated, answering));
                session.stage(client, client_ahead, upstream, ahead, open)
            }
            Task::Login(login) => {
                Stage::new(login.run(client, client_ahead, open, unauthenticated, answering))
            }
            Task::Refuse { message, code, text } => Stage::new(async move {
                refuse(Endpoint::new(client, client_ahead), message, code, text).await;
                drop((open, unauthenticated, answering));
                None
            }),
        }
    }
}

/// Says why not in the client's words, and closes with a code it understands.
/// The message comes with whether it is text.
pub(super) async fn refuse(
    mut client: Endpoint,
    message: Option<(bool, Vec<u8>)>,
    code: u16,
    text: &str,
) {
    if let Some((is_text, message)) = message {
        let opcode = if is_text { Opcode::TEXT } else { Opcode::BINARY };
        let sending = client.send(opcode, &message);
        // A client that takes nothing hears nothing.
        let Ok(Ok(())) = tokio::time::timeout(CLOSING, sending).await else { return };
    }
    client.close(code, text).await;
}
