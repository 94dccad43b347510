//! `sockgate explain`: a dry run of one request.

use std::net::IpAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::{Context as _, bail};
use http::{HeaderName, HeaderValue, Method, Request, Uri};

use super::{UNUSABLE, load};
use crate::config::Loaded;
use crate::pipeline::{self, Gate, Question, Verdict};
use crate::telemetry::{Log, Metrics, Telemetry};

/// The request to explain.
#[derive(clap::Args)]
pub(super) struct Arguments {
    /// The configuration file, YAML or TOML.
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// ws:// and wss:// ask for an upgrade, http:// and https:// for plain HTTP.
    url: String,
    /// The method of a plain request.
    #[arg(short = 'X', value_name = "METHOD")]
    method: Option<String>,
    /// A header of the request.
    #[arg(short = 'H', value_name = "NAME: VALUE")]
    header: Vec<String>,
    /// The first message, for policies that want one.
    #[arg(long, value_name = "TEXT")]
    message: Option<String>,
    /// The address of the client.
    #[arg(long, value_name = "IP", default_value = "127.0.0.1")]
    peer: IpAddr,
    /// Ask network verifiers too.
    #[arg(long)]
    live: bool,
}

/// Explains; the exit status is 0 for admit, 1 for refuse, 2 where that could not
/// be found out.
pub(super) fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let loaded = match load(&arguments.config) {
        Ok(loaded) => loaded,
        Err(code) => return Ok(code),
    };
    let question = match question(&arguments) {
        Ok(question) => question,
        // Not 1: nothing was refused.
        Err(error) => {
            eprintln!("sockgate: {error:#}");
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    let metrics = Metrics::new()?;
    let built = match pipeline::build(&loaded, &metrics, None) {
        Ok(built) => built,
        Err(unusable) => {
            for problem in unusable.problems {
                eprintln!("{}: {problem}", loaded.path.display());
            }
            return Ok(ExitCode::from(UNUSABLE));
        }
    };
    let log = Log::to(&loaded.file.log, std::io::sink())?;
    let gate = Arc::new(Gate::new(built.plans, Arc::new(Telemetry::new(metrics, log)?)));
    let names = |policy: &str| credential_names(&loaded, policy);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let report = runtime.block_on(pipeline::explain(&gate, question, &names));
    print!("{}", report.text);
    Ok(match report.verdict {
        Verdict::Admit => ExitCode::SUCCESS,
        Verdict::Refuse => ExitCode::FAILURE,
        Verdict::Unknown => ExitCode::from(UNUSABLE),
    })
}

fn question(arguments: &Arguments) -> anyhow::Result<Question> {
    let uri: Uri = arguments.url.parse().context("the URL cannot be read")?;
    let (upgrade, tls) = match uri.scheme_str() {
        Some("ws") => (true, false),
        Some("wss") => (true, true),
        Some("http") => (false, false),
        Some("https") => (false, true),
        Some(_) | None => bail!("expected a URL with ws://, wss://, http:// or https://"),
    };
    let authority = uri.authority().context("the URL has no host")?.as_str();
    let method: Method =
        arguments.method.as_deref().unwrap_or("GET").parse().context("-X: not a method")?;
    let target = uri.path_and_query().map_or("/", |target| target.as_str());
    let mut request = Request::builder().method(method).uri(target).body(())?;
    let headers = request.headers_mut();
    headers.insert("host", HeaderValue::from_str(authority)?);
    if upgrade {
        headers.insert("connection", HeaderValue::from_static("Upgrade"));
        headers.insert("upgrade", HeaderValue::from_static("websocket"));
        headers.insert("sec-websocket-version", HeaderValue::from_static("13"));
        headers.insert("sec-websocket-key", HeaderValue::from_static("c29ja2dhdGUgZXhwbGFpbg=="));
    }
    for (index, header) in arguments.header.iter().enumerate() {
        // Neither the name nor the value is repeated: both may be a secret.
        let form = || format!("-H number {}: expected 'Name: value'", index + 1);
        let (name, value) = header.split_once(':').with_context(form)?;
        let name: HeaderName = name.trim().parse().ok().with_context(form)?;
        let value = HeaderValue::from_str(value.trim()).ok().with_context(form)?;
        if name == "host" {
            headers.insert(name, value);
        } else {
            headers.append(name, value);
        }
    }
    let head = request.into_parts().0;
    let message = arguments.message.clone();
    Ok(Question { head, peer: arguments.peer, tls, message, live: arguments.live })
}

/// What the credentials of `policy` are called, in order.
fn credential_names(loaded: &Loaded, policy: &str) -> Vec<String> {
    let credentials = loaded.file.policies.get(policy).map(|policy| &policy.credentials);
    credentials
        .into_iter()
        .flatten()
        .map(|credential| {
            let named = [
                ("cookie", &credential.cookie),
                ("query", &credential.query),
                ("header", &credential.header),
                ("subprotocol", &credential.subprotocol),
                ("subprotocol_pair", &credential.subprotocol_pair),
            ];
            let found = named
                .into_iter()
                .find_map(|(kind, name)| Some(format!("{kind} {}", name.as_deref()?)));
            found.unwrap_or_else(|| "message".to_owned())
        })
        .collect()
}
