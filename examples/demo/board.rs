//! The "legacy" task board: a WebSocket server that knows nothing about auth.
//!
//! It believes `X-User-Id` and `X-User-Name` of whoever connects: no cookie,
//! no token, no password. That is safe only because nothing but sockgate can
//! reach it, and sockgate deletes those headers when a client sends them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use http::HeaderMap;
use serde::{Deserialize, Serialize};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{self, Message, Utf8Bytes};

const TITLE_CHARACTERS: usize = 120;
const MOST_TASKS: usize = 60;

/// Serves the board on every connection of `listener`, for ever.
pub(crate) async fn serve(listener: TcpListener) {
    let board = Arc::new(Board::new());
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                // A client that goes away is no news to the board.
                let board = Arc::clone(&board);
                tokio::spawn(async move { attend(&board, stream).await.ok() });
            }
            // Out of file descriptors, most likely: some will come back.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

/// Whoever the headers say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct User {
    id: String,
    name: String,
}

#[derive(Clone, Debug, Serialize)]
struct Task {
    id: u64,
    title: String,
    column: Column,
    by: User,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Column {
    Todo,
    Doing,
    Done,
}

/// What a client may say. There is no user in it: that is the headers' job.
#[derive(Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Ask {
    /// Wants the whole board.
    Join,
    Typing,
    TaskAdd {
        title: String,
        column: Column,
    },
    TaskMove {
        id: u64,
        column: Column,
    },
}

/// What the board says.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Tell<'a> {
    Board { tasks: &'a [Task], users: Vec<&'a User> },
    Presence { users: Vec<&'a User> },
    UserTyping { user: &'a User },
    TaskAdded { task: &'a Task },
    TaskMoved { id: u64, column: Column, by: &'a User },
    Problem { text: &'a str },
}

impl Tell<'_> {
    fn text(&self) -> Utf8Bytes {
        serde_json::to_string(self).unwrap_or_default().into()
    }
}

/// One message to all, or to all but the connection that caused it.
#[derive(Clone)]
struct News {
    except: Option<u64>,
    text: Utf8Bytes,
}

struct Board {
    state: Mutex<State>,
    news: broadcast::Sender<News>,
}

struct State {
    tasks: Vec<Task>,
    last_task: u64,
    last_connection: u64,
    /// By user id; one person may have many tabs.
    present: BTreeMap<String, (User, usize)>,
}

/// A live connection: present from its making until it is dropped.
struct Seat<'a> {
    board: &'a Board,
    connection: u64,
    user: User,
}

/// One client, from its handshake to its end.
async fn attend(board: &Board, stream: TcpStream) -> Result<(), tungstenite::Error> {
    let mut user = None;
    #[expect(clippy::result_large_err, reason = "the signature is tungstenite's")]
    let handshake = |request: &Request, response: Response| -> Result<Response, ErrorResponse> {
        user = Some(User::of(request.headers()));
        Ok(response)
    };
    let config = WebSocketConfig::default()
        .read_buffer_size(4 << 10)
        .max_message_size(Some(16 << 10))
        .max_frame_size(Some(16 << 10));
    let mut socket =
        tokio_tungstenite::accept_hdr_async_with_config(stream, handshake, Some(config)).await?;
    let Some(user) = user else { return Ok(()) };
    let (seat, mut news) = board.seat(user);
    loop {
        tokio::select! {
            message = socket.next() => match message {
                Some(Ok(Message::Text(text))) => {
                    if let Some(answer) = seat.hear(&text) {
                        socket.send(Message::Text(answer)).await?;
                    }
                }
                // Pings and the closing handshake are answered by tungstenite.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error),
                None => return Ok(()),
            },
            item = news.recv() => match item {
                Ok(item) if item.except == Some(seat.connection) => {}
                Ok(item) => socket.send(Message::Text(item.text)).await?,
                // Too slow to have seen everything: start again from the whole.
                Err(RecvError::Lagged(_)) => socket.send(Message::Text(seat.snapshot())).await?,
                Err(RecvError::Closed) => return Ok(()),
            },
        }
    }
}

impl User {
    fn of(headers: &HeaderMap) -> User {
        let text = |name: &str| {
            headers.get(name).map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
        };
        let id = text("x-user-id").unwrap_or_else(|| "anonymous".to_owned());
        let name = text("x-user-name").unwrap_or_else(|| id.clone());
        User { id, name }
    }
}

impl Board {
    fn new() -> Board {
        let mut state =
            State { tasks: Vec::new(), last_task: 0, last_connection: 0, present: BTreeMap::new() };
        let by = User { id: "board".to_owned(), name: "Task board".to_owned() };
        for (title, column) in [
            ("Tell the board who is who, without touching its code", Column::Doing),
            ("Close sockets when the login behind them ends", Column::Todo),
            ("Keep tokens out of every log line", Column::Todo),
            ("Delete X-User-Id when a client sends it", Column::Done),
            ("Run on one laptop, with nothing else installed", Column::Done),
        ] {
            state.add(title.to_owned(), column, by.clone());
        }
        Board { state: Mutex::new(state), news: broadcast::Sender::new(256) }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes before it is present, so that nothing falls between.
    fn seat(&self, user: User) -> (Seat<'_>, broadcast::Receiver<News>) {
        let mut state = self.lock();
        let news = self.news.subscribe();
        state.last_connection += 1;
        let connection = state.last_connection;
        let (known, tabs) =
            state.present.entry(user.id.clone()).or_insert_with(|| (user.clone(), 0));
        known.name.clone_from(&user.name);
        *tabs += 1;
        self.tell(None, &Tell::Presence { users: state.users() });
        (Seat { board: self, connection, user }, news)
    }

    fn tell(&self, except: Option<u64>, tell: &Tell<'_>) {
        // An error only says that nobody is connected.
        self.news.send(News { except, text: tell.text() }).ok();
    }
}

impl State {
    fn users(&self) -> Vec<&User> {
        self.present.values().map(|(user, _)| user).collect()
    }

    fn add(&mut self, title: String, column: Column, by: User) -> Option<&Task> {
        if self.tasks.len() >= MOST_TASKS {
            return None;
        }
        self.last_task += 1;
        self.tasks.push(Task { id: self.last_task, title, column, by });
        self.tasks.last()
    }
}

impl Seat<'_> {
    /// Does what the client asks; the answer is for this client alone.
    fn hear(&self, text: &str) -> Option<Utf8Bytes> {
        let problem = |text: &str| Some(Tell::Problem { text }.text());
        let Ok(ask) = serde_json::from_str::<Ask>(text) else {
            return problem("the board does not understand that");
        };
        let user = &self.user;
        match ask {
            Ask::Join => Some(self.snapshot()),
            Ask::Typing => {
                self.board.tell(Some(self.connection), &Tell::UserTyping { user });
                None
            }
            Ask::TaskAdd { title, column } => {
                let title: String = title.trim().chars().take(TITLE_CHARACTERS).collect();
                if title.is_empty() {
                    return problem("a task needs a title");
                }
                let mut state = self.board.lock();
                match state.add(title, column, user.clone()) {
                    Some(task) => self.board.tell(None, &Tell::TaskAdded { task }),
                    None => return problem("the board is full"),
                }
                None
            }
            Ask::TaskMove { id, column } => {
                let mut state = self.board.lock();
                let Some(task) = state.tasks.iter_mut().find(|task| task.id == id) else {
                    return problem("no such task");
                };
                task.column = column;
                self.board.tell(None, &Tell::TaskMoved { id, column, by: user });
                None
            }
        }
    }

    fn snapshot(&self) -> Utf8Bytes {
        let state = self.board.lock();
        Tell::Board { tasks: &state.tasks, users: state.users() }.text()
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        let mut state = self.board.lock();
        if let Some((_, tabs)) = state.present.get_mut(&self.user.id) {
            *tabs -= 1;
            if *tabs == 0 {
                state.present.remove(&self.user.id);
            }
        }
        self.board.tell(None, &Tell::Presence { users: state.users() });
    }
}
