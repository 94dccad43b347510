//! The text of a configuration file → a tree of values. Says where the syntax
//! is wrong, never what stands there: it may be a secret.

use std::io::Read;
use std::path::Path;

use figment::providers::{Format, Toml};
use figment::value::Dict;
use serde::de::IgnoredAny;
use serde_saphyr::Error as YamlError;

use crate::problem::Problem;

/// No configuration is larger; a wrong `--config` often is.
const LARGEST: u64 = 4 << 20;

#[derive(Clone, Copy)]
enum Syntax {
    Yaml,
    Toml,
}

/// Reads and parses the file; the error is about the file as a whole.
pub(super) fn read(path: &Path) -> Result<Dict, Problem> {
    let whole = |message: String| Problem::new("", message);
    let syntax = syntax(path).map_err(|message| whole(message.to_owned()))?;
    let unreadable = |error: std::io::Error| whole(format!("cannot be read: {error}"));
    let metadata = std::fs::metadata(path).map_err(unreadable)?;
    if metadata.is_dir() {
        return Err(whole("is a directory; name the file in it".to_owned()));
    }
    if metadata.len() > LARGEST {
        return Err(whole("is larger than 4MiB; is it a configuration file?".to_owned()));
    }
    let mut bytes = Vec::new();
    let file = std::fs::File::open(path).map_err(unreadable)?;
    file.take(LARGEST).read_to_end(&mut bytes).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| whole("is not UTF-8 text".to_owned()))?;
    let dict = parse(text.strip_prefix('\u{feff}').unwrap_or(&text), syntax).map_err(whole)?;
    if dict.is_empty() {
        return Err(whole("is empty; it needs at least `server` and `routes`".to_owned()));
    }
    Ok(dict)
}

fn syntax(path: &Path) -> Result<Syntax, &'static str> {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml") => Ok(Syntax::Yaml),
        Some("toml") => Ok(Syntax::Toml),
        Some(_) | None => Err("unknown extension; a configuration ends in .yaml, .yml or .toml"),
    }
}

fn parse(text: &str, syntax: Syntax) -> Result<Dict, String> {
    match syntax {
        Syntax::Yaml => parse_yaml(text),
        Syntax::Toml => Toml::from_str(text).map_err(|error| {
            let at = error.span().map(|span| position(text, span.start)).unwrap_or_default();
            format!("{at}{}", without_content(error.message(), "not valid TOML"))
        }),
    }
}

fn parse_yaml(text: &str) -> Result<Dict, String> {
    // serde-saphyr bounds aliases, depth and nodes by default; these are tighter.
    // Words and numbers read as YAML 1.2 does: `no` is text, `0755` is text.
    let options = serde_saphyr::options! {
        with_snippet: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        // `token: !env NAME` must not become the token "NAME".
        reject_unsupported_tags: true,
        budget: serde_saphyr::budget! {
            max_nodes: 100_000,
            max_depth: 40,
            max_aliases: 1_000,
        },
        alias_limits: serde_saphyr::alias_limits! { max_total_replayed_events: 100_000 },
    };
    let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
    if text.lines().all(blank) {
        return Ok(Dict::new());
    }
    serde_saphyr::from_str_with_options(text, options.clone()).map_err(|error| {
        // A file that is well-formed but whose top is no table.
        let well_formed = serde_saphyr::from_str_with_options::<IgnoredAny>(text, options).is_ok();
        yaml_message(&error, well_formed)
    })
}

fn yaml_message(error: &YamlError, well_formed: bool) -> String {
    let at = error.location().map_or_else(String::new, |location| {
        match (location.line(), location.column()) {
            (0, _) => String::new(),
            (line, column) => format!("line {line}, column {column}: "),
        }
    });
    let mut cause = error.without_snippet();
    while let YamlError::AliasError { error, .. } = cause {
        cause = error.without_snippet();
    }
    let message = match cause {
        YamlError::DuplicateMappingKey { key, .. } => {
            match key.as_deref().filter(|key| shows_as_key(key)) {
                Some(key) => format!("the key \"{key}\" stands twice in one table"),
                None => "a key stands twice in one table".to_owned(),
            }
        }
        YamlError::Eof { .. } => "the file ends too early".to_owned(),
        YamlError::MultipleDocuments { .. } => {
            "a second document begins; a configuration is one".to_owned()
        }
        YamlError::UnsupportedTag { .. } => {
            "a tag (!) that means nothing here; a secret is { env: NAME } or { file: PATH }"
                .to_owned()
        }
        YamlError::UnknownAnchor { .. } => "an alias names no anchor".to_owned(),
        YamlError::Budget { .. }
        | YamlError::AliasReplayCounterOverflow { .. }
        | YamlError::AliasReplayLimitExceeded { .. }
        | YamlError::AliasReplayStackDepthExceeded { .. }
        | YamlError::AliasExpansionLimitExceeded { .. } => {
            "too large, too deeply nested, or with too many aliases".to_owned()
        }
        YamlError::NonFiniteFloat { .. } => "a number that is not finite".to_owned(),
        YamlError::ExternalMessage { msg, .. } => without_content(msg, "not valid YAML"),
        _ if well_formed => "the top of the file must be a table of keys".to_owned(),
        _ => "not valid YAML".to_owned(),
    };
    format!("{at}{message}")
}

/// A parser's message if it cannot hold a piece of the file: up to its first
/// line end, and without any quotation.
fn without_content(message: &str, instead: &str) -> String {
    let line = message.lines().next().unwrap_or_default();
    let quotes = line.contains(['"', '\'', '`']);
    if line.is_empty() || quotes { instead.to_owned() } else { format!("{instead}: {line}") }
}

/// Whether a name reads like a key and not like a value that slipped into its place.
pub(super) fn shows_as_key(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-./".contains(&byte))
}

fn position(text: &str, offset: usize) -> String {
    let before = text.get(..offset).unwrap_or(text);
    let line = before.matches('\n').count() + 1;
    let column = before.rsplit('\n').next().unwrap_or_default().chars().count() + 1;
    format!("line {line}, column {column}: ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(name: &str, text: &[u8]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        read(&path).unwrap_err().to_string()
    }

    #[test]
    fn files_that_are_none_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let missing = read(&dir.path().join("none.yaml")).unwrap_err();
        assert!(missing.message.starts_with("cannot be read: No such file"), "{missing}");
        std::fs::create_dir(dir.path().join("d.yaml")).unwrap();
        let directory = read(&dir.path().join("d.yaml")).unwrap_err();
        assert!(directory.message.starts_with("is a directory"));
        assert!(fault("a.json", b"{}").contains(".yaml, .yml or .toml"));
        assert!(fault("yaml", b"a: 1").contains(".yaml, .yml or .toml"));
        assert!(fault("a.yml", b"").starts_with("is empty"));
        assert!(fault("a.yaml", b"# nothing\n\n").starts_with("is empty"));
        assert!(fault("a.toml", b"\n").starts_with("is empty"));
        assert_eq!(fault("a.yaml", b"a: \xff\n"), "is not UTF-8 text");
    }

    #[test]
    fn syntax_errors_have_a_place_and_no_content() {
        let cases = [
            ("a.yaml", "server:\n  listen: hunter2hunter2: x\n", "line 2, column "),
            ("a.yaml", "a: [hunter2hunter2\nb: 1\n", "line "),
            ("a.yaml", "a: \"hunter2hunter2\n", "line "),
            ("a.yaml", "a: *hunter2hunter2\n", "line 1, column "),
            ("a.yaml", "hunter2 hunter2: 1\nhunter2 hunter2: 2\n", "a key stands twice"),
            ("a.yaml", "a: !env hunter2hunter2\n", "a secret is { env: NAME }"),
            ("a.yaml", "- hunter2hunter2\n", "must be a table"),
            ("a.yaml", "hunter2hunter2\n", "must be a table"),
            ("a.yaml", "a: 1\n---\nb: hunter2hunter2\n", "second document"),
            ("a.toml", "[admin]\ntoken = hunter2hunter2\n", "line 2, column "),
            ("a.toml", "[admin]\ntoken = \"hunter2hunter2\n", "line 2, column "),
            ("a.toml", "hunter2hunter2\n", "line 1, column "),
        ];
        for (name, text, expected) in cases {
            let message = fault(name, text.as_bytes());
            assert!(message.contains(expected), "{text:?}: {message}");
            assert!(!message.contains("hunter2"), "{text:?}: {message}");
        }
    }

    #[test]
    fn duplicate_keys_are_refused() {
        let yaml = fault("a.yaml", b"limits:\n  connections: 1\n  connections: 2\n");
        assert_eq!(yaml, "line 3, column 3: the key \"connections\" stands twice in one table");
        assert!(fault("a.toml", b"[a]\nb = 1\nb = 2\n").starts_with("line 3, column 1: "));
    }

    #[test]
    fn a_yaml_bomb_is_refused() {
        let mut bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
        for level in 1..9 {
            let below = vec![format!("*a{}", level - 1); 10].join(", ");
            bomb.push_str(&format!("a{level}: &a{level} [{below}]\n"));
        }
        assert!(fault("a.yaml", bomb.as_bytes()).contains("too many aliases"));
        let deep = format!("a: {}{}", "[".repeat(3000), "]".repeat(3000));
        assert!(!fault("a.yaml", deep.as_bytes()).is_empty());
        let deep = format!("a = {}{}", "[".repeat(3000), "]".repeat(3000));
        assert!(!fault("a.toml", deep.as_bytes()).is_empty());
    }

    #[test]
    fn words_of_yaml_1_1_stay_text() {
        let dict = parse("a: no\nb: 0755\nc: 1_000\nd: yes\n", Syntax::Yaml).unwrap();
        for (key, text) in [("a", "no"), ("b", "0755"), ("c", "1_000"), ("d", "yes")] {
            assert_eq!(dict.get(key).and_then(|value| value.as_str()), Some(text));
        }
    }
}
