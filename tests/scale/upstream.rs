//! A server for thousands of connections: it sends each message back.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::crowd::Frames;

/// The server, on a thread of its own until the process ends.
pub(crate) struct Echo {
    address: SocketAddr,
    open: Arc<AtomicUsize>,
    fate: watch::Sender<Fate>,
}

/// Which connections die now.
#[derive(Clone, Copy, Default)]
struct Fate {
    /// A new number each time.
    round: usize,
    /// One of so many.
    one_of: usize,
}

impl Echo {
    /// Starts one on a free port of loopback.
    pub(crate) fn start() -> Echo {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        listener.set_nonblocking(true).expect("not blocking");
        let address = listener.local_addr().expect("bound");
        let open = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&open);
        let (fate, told) = watch::channel(Fate::default());
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(serve(listener, counted, told));
        });
        Echo { address, open, fate }
    }

    /// Lets one connection of `one_of` die without a word, at whatever it is.
    pub(crate) fn kill(&self, one_of: usize) {
        self.fate.send_modify(|fate| *fate = Fate { round: fate.round + 1, one_of });
    }

    /// `ws://…`
    pub(crate) fn ws(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        self.open.load(Ordering::SeqCst)
    }
}

async fn serve(
    listener: std::net::TcpListener,
    open: Arc<AtomicUsize>,
    fate: watch::Receiver<Fate>,
) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    for number in 0.. {
        let Ok((stream, _)) = listener.accept().await else { continue };
        let (open, mut fate) = (Arc::clone(&open), fate.clone());
        tokio::spawn(async move {
            open.fetch_add(1, Ordering::SeqCst);
            let doom = async {
                let dies = |fate: &Fate| {
                    fate.round > 0 && (number + fate.round).is_multiple_of(fate.one_of.max(1))
                };
                if fate.wait_for(dies).await.is_err() {
                    // Nobody is left who could tell.
                    std::future::pending::<()>().await;
                }
            };
            // However it ends: the client's side is what is looked at.
            tokio::select! {
                _ = echo(stream) => {}
                () = doom => {}
            }
            open.fetch_sub(1, Ordering::SeqCst);
        });
    }
}

async fn echo(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let key = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim().to_owned())
    });
    let text = format!("{}258EAFA5-E914-47DA-95CA-C5AB0DC85B11", key.unwrap_or_default());
    let accept =
        STANDARD.encode(digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes()));
    let answer = format!(
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Accept: {accept}\r\n\r\n"
    );
    drop((head, text));
    stream.write_all(answer.as_bytes()).await?;
    let mut frames = Frames::default();
    loop {
        let Some((opcode, payload)) = frames.next(&mut stream).await? else { return Ok(()) };
        let length = u8::try_from(payload.len()).unwrap_or(125).min(125);
        let answer = match opcode {
            9 => 10,
            other => other,
        };
        stream.write_all(&[&[0x80 | answer, length], &payload[..length.into()]].concat()).await?;
        if opcode == 8 {
            return stream.shutdown().await;
        }
    }
}
