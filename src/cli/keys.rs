//! `sockgate hash-key`: API keys are stored as hashes alone.

use std::io::Read as _;
use std::process::ExitCode;

use anyhow::{Context as _, bail};

use crate::verifier::{generate, hash_entry};

/// The longest key that is read.
const LONGEST: u64 = 64 * 1024;

/// Prints the entry for the key on stdin, or for a new one.
pub(super) fn run(new: bool) -> anyhow::Result<ExitCode> {
    if new {
        let key = generate()?;
        eprintln!("{}", String::from_utf8_lossy(key.expose()));
        println!("{}", hash_entry(key.expose()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut key = Vec::new();
    std::io::stdin()
        .take(LONGEST + 1)
        .read_to_end(&mut key)
        .context("cannot read the key from stdin")?;
    if key.len() as u64 > LONGEST {
        bail!("the key on stdin is longer than {LONGEST} bytes");
    }
    if key.last() == Some(&b'\n') {
        key.pop();
        if key.last() == Some(&b'\r') {
            key.pop();
        }
    }
    if key.is_empty() {
        bail!("no key on stdin; pipe one in, or use --generate");
    }
    println!("{}", hash_entry(&key));
    Ok(ExitCode::SUCCESS)
}
