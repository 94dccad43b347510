//! What a connection costs while nothing happens, and real sockets.

use tokio::net::{TcpListener, TcpStream};

use super::*;
use crate::relay::{Initiator, relay};
use crate::stream::Stream;

#[test]
fn an_idle_connection_pays_little() {
    let pump = size_of::<Pump<Stream, Stream, Arc<Control>>>();
    println!("relay future: {pump} bytes, control: {} bytes", size_of::<Control>());
    assert!(pump <= 448, "{pump}");
}

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (far, near) = tokio::join!(TcpStream::connect(address), listener.accept());
    (far.unwrap(), near.unwrap().0)
}

/// An upstream that says its last word and hangs up while the client is still
/// talking: its socket answers our writes with a reset, yet the Close arrives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_close_is_lost_when_the_upstream_hangs_up_on_a_talking_client() {
    for round in 0..200 {
        let (client, near_client) = pair().await;
        let (mut upstream, near_upstream) = pair().await;
        let pump = tokio::spawn(relay(
            Stream::Tcp(near_client),
            Bytes::new(),
            Stream::Tcp(near_upstream),
            Bytes::new(),
            Arc::new(Control::new(0)),
            Arc::new(Ticker::default()),
            RelaySettings::default(),
            None,
        ));
        let (mut client_read, mut client_write) = client.into_split();
        let talk = tokio::spawn(async move {
            let word = text("word", Some(MASK));
            while client_write.write_all(&word).await.is_ok() {
                tokio::task::yield_now().await;
            }
        });
        let last = [text("last word", None), encode_close(4100, "done", None)].concat();
        let mut heard = [0; 10];
        upstream.read_exact(&mut heard).await.unwrap();
        upstream.write_all(&last).await.unwrap();
        upstream.shutdown().await.unwrap();
        drop(upstream);
        let mut got = vec![0; last.len()];
        client_read.read_exact(&mut got).await.unwrap_or_else(|e| panic!("round {round}: {e}"));
        assert_eq!(got, last);
        talk.abort();
        drop(client_read);
        let _ = talk.await;
        let ended = pump.await.unwrap();
        assert_eq!((ended.initiator, ended.code), (Initiator::Upstream, 4100), "round {round}");
    }
}
