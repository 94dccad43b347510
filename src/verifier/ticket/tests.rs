//! Both stores pass the contract of verifiers; what else holds for every store is
//! shown with the one in memory. With replicas that share a real Redis: see
//! `tests/it/tickets.rs`.

use std::collections::BTreeSet;

use serde_json::json;

use super::*;
use crate::credential::Place;
use crate::identity::{Method, Proof};
use crate::verifier::occasion::Asked;
use crate::verifier::{Chain, VerifierConfig, contract};

const NOW: UnixSeconds = 1_800_000_000;

fn built(config: serde_json::Value) -> Result<Built, Vec<Problem>> {
    let config: VerifierConfig = serde_json::from_value(json!({ "ticket": config })).unwrap();
    crate::verifier::build("tickets", &config, Path::new("."))
}

fn tickets(config: serde_json::Value) -> Arc<dyn Verifier> {
    built(config).ok().unwrap().verifier
}

fn identity(subject: &str, expires: Option<UnixSeconds>) -> Arc<Identity> {
    let identity = Identity::proven(Proof {
        subject: subject.into(),
        method: Method::Jwt,
        verifier: "app".into(),
        issuer: None,
        session: None,
        token_id: None,
        issued_at: None,
        expires,
        leeway: 5,
        claims: "{}".into(),
    });
    Arc::new(identity.ok().unwrap())
}

/// A Redis on a socket of its own, from Debian's package; killed on drop.
struct Server(std::process::Child, tempfile::TempDir);

impl Server {
    async fn start() -> Server {
        let place = tempfile::tempdir().unwrap();
        let mut command = std::process::Command::new("redis-server");
        command.args(["--port", "0", "--save", "", "--unixsocket"]).arg(place.path().join("s"));
        command.arg("--dir").arg(place.path()).stdout(std::process::Stdio::null());
        let child = command.spawn().expect("redis-server (tests/run setup installs it)");
        let server = Server(child, place);
        while tokio::net::UnixStream::connect(server.1.path().join("s")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        server
    }

    fn url(&self) -> String {
        format!("unix:{}/s", self.1.path().display())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn tickets_in_either_store_pass_the_contract_of_verifiers() {
    let server = Server::start().await;
    for store in ["memory".to_owned(), server.url()] {
        let verifier = tickets(json!({ "store": store }));
        let ended = identity("canary-subject", Some(NOW - 5));
        let ended = verifier.tickets().unwrap().issue(&ended, None, NOW - 10).await;
        contract::holds_once(contract::Sample {
            now: NOW,
            valid: issue(&verifier, "alice").await.into(),
            subject: "alice",
            method: "jwt",
            wrong: Ticket::fresh().unwrap().text().into(),
            expired: Some(ended.ok().unwrap().ticket.into()),
            without_subject: None,
            verifier,
        })
        .await;
    }
}

#[tokio::test]
async fn whatever_is_wrong_with_a_store_is_no_verdict_on_the_ticket() {
    let ticket = Ticket::fresh().unwrap().text();
    contract::survives_with(ticket.as_bytes(), Duration::from_millis(300), |address| {
        tickets(json!({ "store": format!("redis://{address}"), "timeout": "300ms" }))
    })
    .await;
}

async fn issue(verifier: &Arc<dyn Verifier>, subject: &str) -> String {
    let issued = verifier.tickets().unwrap().issue(&identity(subject, None), None, NOW).await;
    issued.ok().unwrap().ticket
}

async fn show(
    verifier: &Arc<dyn Verifier>,
    value: &[u8],
    now: UnixSeconds,
) -> Result<Arc<Identity>, VerifyError> {
    let asked = Asked::default();
    let occasion = asked.with(Place::Message);
    verifier.verify(&Credential { value, basic: false }, &occasion, now).await
}

async fn reason(verifier: &Arc<dyn Verifier>, value: &[u8]) -> Reason {
    match show(verifier, value, NOW).await {
        Ok(_) => panic!("admitted {} bytes", value.len()),
        Err(error) => error.reason(),
    }
}

#[tokio::test]
async fn a_ticket_admits_once_as_whoever_fetched_it() {
    let verifier = tickets(json!({}));
    let ticket = issue(&verifier, "alice").await;
    let back = show(&verifier, ticket.as_bytes(), NOW).await.ok().unwrap();
    assert!(*back == *identity("alice", None));
    assert_eq!(reason(&verifier, ticket.as_bytes()).await, Reason::InvalidCredential);
}

#[tokio::test]
async fn what_is_no_ticket_is_invalid_and_spends_none() {
    let verifier = tickets(json!({}));
    let ticket = issue(&verifier, "alice").await;
    let huge = vec![b'a'; 1 << 20];
    let mut shown: Vec<Vec<u8>> =
        vec![vec![], b" ".to_vec(), b"sgt_".to_vec(), b"\xff\0".to_vec(), huge];
    shown.push(format!(" {ticket}").into());
    shown.push(format!("{ticket}\n").into());
    shown.push(format!("{ticket}=").into());
    shown.push(ticket.to_uppercase().into());
    for index in 0..ticket.len() {
        let mut changed = ticket.clone().into_bytes();
        changed[index] ^= 1;
        shown.push(changed);
        shown.push(ticket.as_bytes()[..index].to_vec());
    }
    for value in &shown {
        assert_eq!(reason(&verifier, value).await, Reason::InvalidCredential);
    }
    assert!(show(&verifier, ticket.as_bytes(), NOW).await.is_ok());
}

#[tokio::test]
async fn only_the_prefix_is_recognised_and_a_chain_names_the_verifier() {
    let verifier = tickets(json!({}));
    let ticket = issue(&verifier, "alice").await;
    let recognised =
        |value: &str| verifier.recognises(&Credential { value: value.as_bytes(), basic: false });
    assert!(recognised(&ticket) && recognised("sgt_nonsense"));
    assert!(!recognised("eyJ.a.b") && !recognised("") && !recognised("SGT_"));
    let chain = Chain::new(vec![verifier]);
    let asked = Asked::default();
    let credential = Credential { value: ticket.as_bytes(), basic: false };
    let verdict = chain.verify(&credential, &asked.with(Place::Message), NOW).await;
    assert_eq!(verdict.verifier.as_deref(), Some("tickets"));
    assert_eq!(&**verdict.result.ok().unwrap().verifier(), "app");
}

#[tokio::test(start_paused = true)]
async fn a_ticket_ends_after_its_time() {
    let verifier = tickets(json!({ "ttl": "5s" }));
    let (early, late) = (issue(&verifier, "alice").await, issue(&verifier, "alice").await);
    tokio::time::advance(Duration::from_millis(4_999)).await;
    assert!(show(&verifier, early.as_bytes(), NOW).await.is_ok());
    tokio::time::advance(Duration::from_millis(1)).await;
    assert_eq!(reason(&verifier, late.as_bytes()).await, Reason::InvalidCredential);
}

#[tokio::test(start_paused = true)]
async fn a_ticket_ends_with_the_login() {
    let verifier = tickets(json!({ "ttl": "30s" }));
    let tickets = verifier.tickets().unwrap();
    let soon = identity("alice", Some(NOW + 2));
    let issued = tickets.issue(&soon, None, NOW).await.ok().unwrap();
    assert_eq!(issued.expires_in, 7, "until the leeway ends");
    tokio::time::advance(Duration::from_secs(7)).await;
    let late = show(&verifier, issued.ticket.as_bytes(), NOW + 7).await;
    assert_eq!(late.err().unwrap().reason(), Reason::Expired);
    let ended = tickets.issue(&identity("alice", Some(NOW - 5)), None, NOW).await;
    assert_eq!(ended.err().unwrap().reason(), Reason::Expired);
}

#[tokio::test(start_paused = true)]
async fn the_eleventh_ticket_drops_the_oldest_that_is_open() {
    let verifier = tickets(json!({ "ttl": "30s" }));
    let mut fetched = Vec::new();
    for _ in 0..10 {
        fetched.push(issue(&verifier, "alice").await);
    }
    // One that is used makes room.
    assert!(show(&verifier, fetched[3].as_bytes(), NOW).await.is_ok());
    let others = issue(&verifier, "bob").await;
    fetched.push(issue(&verifier, "alice").await);
    fetched.push(issue(&verifier, "alice").await);
    assert_eq!(reason(&verifier, fetched[0].as_bytes()).await, Reason::InvalidCredential);
    for (index, ticket) in fetched.iter().enumerate().skip(1).filter(|(index, _)| *index != 3) {
        assert!(show(&verifier, ticket.as_bytes(), NOW).await.is_ok(), "{index}");
    }
    assert!(show(&verifier, others.as_bytes(), NOW).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_a_hundred_who_show_the_same_ticket_one_wins() {
    let verifier = tickets(json!({}));
    for _ in 0..20 {
        let ticket: Arc<str> = issue(&verifier, "alice").await.into();
        let racers: Vec<_> = (0..100)
            .map(|_| {
                let (verifier, ticket) = (Arc::clone(&verifier), Arc::clone(&ticket));
                tokio::spawn(async move { show(&verifier, ticket.as_bytes(), NOW).await.is_ok() })
            })
            .collect();
        let mut winners = 0;
        for racer in racers {
            winners += usize::from(racer.await.unwrap());
        }
        assert_eq!(winners, 1);
    }
}

#[tokio::test]
async fn no_two_tickets_are_alike() {
    let verifier = tickets(json!({}));
    let mut seen = BTreeSet::new();
    for _ in 0..1000 {
        assert!(seen.insert(issue(&verifier, "alice").await));
    }
}

#[test]
fn what_cannot_be_a_store_is_named() {
    let told = |config| {
        let problems = built(config).err().unwrap();
        problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
    };
    let wrong = told(json!({ "store": "http://user:hunter2@h", "ttl": "11m" }));
    assert!(wrong.contains("ticket.ttl: must be 1s to 10m"), "{wrong}");
    assert!(wrong.contains("ticket.store: expected redis://"), "{wrong}");
    assert!(wrong.contains("or write `memory`") && !wrong.contains("hunter2"), "{wrong}");
    assert!(told(json!({ "ttl": "0" })).contains("ticket.ttl"));
    assert!(told(json!({ "ca": "ca.pem" })).contains("ticket.ca: has no effect"));
    assert!(told(json!({ "store": "redis://h", "timeout": "0" })).contains("ticket.timeout"));
    assert!(built(json!({ "store": "redis://:pw@h:1/0" })).is_ok());
}

#[tokio::test]
async fn a_store_that_cannot_be_reached_is_unavailable_and_bounded() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let urls = [&silent, &closed].map(|one| format!("redis://{}", one.local_addr().unwrap()));
    drop(closed);
    for url in urls {
        let verifier = tickets(json!({ "store": url, "timeout": "200ms" }));
        assert!(verifier.asks());
        let began = Instant::now();
        let issued = verifier.tickets().unwrap().issue(&identity("alice", None), None, NOW).await;
        assert_eq!(issued.err().unwrap().reason(), Reason::VerifierUnavailable);
        let ticket = Ticket::fresh().unwrap().text();
        assert_eq!(reason(&verifier, ticket.as_bytes()).await, Reason::VerifierUnavailable);
        // What is no ticket is known without asking.
        assert_eq!(reason(&verifier, b"sgt_x").await, Reason::InvalidCredential);
        assert!(began.elapsed() < Duration::from_secs(5));
    }
    drop(silent);
}
