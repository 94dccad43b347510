//! The rules of the house, read out of the sources: who may import whom (the
//! table in `ARCHITECTURE.md`), which rooms are pure, and what no file does.
//!
//! A scanner of words, not a compiler: it blanks comments and literals, leaves
//! out test code, and reads `crate::`, `super::` and `sockgate::` paths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

/// Rooms that take values and return values.
const PURE: &[&str] = &["route", "policy", "identity", "close", "credential", "relay/frame.rs"];
/// What a pure room has no business with.
const IMPURE: &[&str] =
    &["tokio", "SystemTime", "Instant", "std::fs", "std::net::TcpStream", "std::thread"];
/// Where a line may be printed.
const PRINTING: &[&str] = &["cli", "main", "telemetry"];
/// Who may make an `Identity`.
const PROVING: &[&str] = &["verifier", "identity"];
/// Names that say nothing about what is in a room.
const NAMELESS: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "misc", "types", "manager"];
/// How long a file may be.
const LINES: usize = 500;
/// The files that may be longer, each with its reason.
const LONG: &[(&str, &str)] = &[];

// ---- the rules ------------------------------------------------------------

#[test]
fn the_import_table_has_no_cycle() {
    let table = table();
    assert!(table.len() > 15, "only {} rooms in the table", table.len());
    let mut above = BTreeSet::new();
    for (room, imports) in &table {
        for import in imports {
            assert!(
                above.contains(import),
                "{room} may import {import}, which is not in a row above it"
            );
        }
        assert!(above.insert(room.clone()), "{room} has two rows");
    }
}

#[test]
fn rooms_import_only_what_the_table_lets_them() {
    let table: BTreeMap<String, Vec<String>> = table().into_iter().collect();
    let mut found = 0;
    let mut wrong = Vec::new();
    for file in sources() {
        // lib.rs is the list of rooms; it imports nothing.
        if file.path == "lib.rs" {
            continue;
        }
        let Some(may) = table.get(file.room()) else {
            wrong.push(format!("{}: no row for the room {}", file.path, file.room()));
            continue;
        };
        for import in file.imports() {
            if import != file.room() {
                found += 1;
                if !may.contains(&import) {
                    wrong.push(format!("{}: {} may not import {import}", file.path, file.room()));
                }
            }
        }
    }
    assert!(found > 30, "only {found} imports were found: is the scan looking at anything?");
    none(wrong);
}

#[test]
fn every_room_of_the_table_exists() {
    let rooms: BTreeSet<String> = sources().iter().map(|file| file.room().to_owned()).collect();
    none(table().into_iter().map(|(room, _)| room).filter(|room| !rooms.contains(room)).collect());
}

#[test]
fn pure_rooms_know_no_runtime_and_no_clock() {
    let sources = sources();
    let pure: Vec<&Source> = sources.iter().filter(|file| file.is_in(PURE)).collect();
    assert!(pure.len() >= PURE.len(), "only {} pure files were found", pure.len());
    none(pure.into_iter().flat_map(|file| file.mentions(IMPURE)).collect());
}

#[test]
fn only_a_verifier_makes_an_identity() {
    let sources = sources();
    let made = |file: &&Source| !file.mentions(&["Identity::proven"]).is_empty();
    assert!(
        sources.iter().any(|file| file.code.contains("fn proven(")),
        "Identity::proven is gone"
    );
    none(
        sources
            .iter()
            .filter(made)
            .filter(|file| !file.is_in(PROVING))
            .map(|file| file.path.clone())
            .collect(),
    );
}

#[test]
fn nothing_outside_tests_panics_on_purpose() {
    let panics = [".unwrap()", ".expect(", "panic!", "todo!", "unimplemented!"];
    none(sources().iter().flat_map(|file| file.mentions(&panics)).collect());
}

#[test]
fn only_the_command_line_and_the_log_print() {
    let prints = ["println!", "eprintln!", "print!", "eprint!", "dbg!"];
    let sources = sources();
    let silent = sources.iter().filter(|file| !file.is_in(PRINTING));
    none(silent.flat_map(|file| file.mentions(&prints)).collect());
}

#[test]
fn nothing_is_static() {
    // The relay's scratch buffer, one per thread, is the one exception.
    let statics = ["static ", "OnceLock", "LazyLock", "lazy_static!", "thread_local!"];
    let mut wrong = Vec::new();
    for file in sources() {
        let mut file = file;
        if file.room() == "relay" {
            file.code = without_item(&file.code, "thread_local!");
        }
        wrong.extend(file.mentions(&statics));
    }
    none(wrong);
}

#[test]
fn reasons_are_matched_without_a_wildcard() {
    let sources = sources();
    let close = sources.iter().find(|file| file.path == "close.rs").expect("src/close.rs");
    assert!(close.code.contains("match self"), "close.rs matches nothing");
    let wildcard = |line: &&str| line.trim_start().starts_with("_ =>") || line.contains("| _ =>");
    none(
        close
            .code
            .lines()
            .filter(wildcard)
            .map(|line| format!("close.rs: {}", line.trim()))
            .collect(),
    );
}

#[test]
fn every_file_says_what_it_is_for() {
    let files = files();
    assert!(files.len() > 40, "only {} files were found", files.len());
    let silent = files.iter().filter(|(_, text)| !text.starts_with("//!"));
    none(silent.map(|(path, _)| format!("{path}: no //! at the top")).collect());
}

#[test]
fn files_are_short() {
    let mut wrong = Vec::new();
    for file in sources() {
        let allowed = LONG.iter().any(|(path, reason)| *path == file.path && !reason.is_empty());
        match (file.lines > LINES, allowed) {
            (true, false) => wrong.push(format!("{}: {} lines", file.path, file.lines)),
            (false, true) => wrong.push(format!("{}: no longer needs its exception", file.path)),
            (true, true) | (false, false) => {}
        }
    }
    none(wrong);
}

#[test]
fn names_say_something() {
    let mut wrong = Vec::new();
    for (path, _) in files() {
        let stems = path.trim_end_matches(".rs").split('/').map(str::to_owned);
        wrong.extend(
            stems
                .filter(|stem| NAMELESS.contains(&stem.as_str()))
                .map(|stem| format!("{path}: {stem}")),
        );
    }
    wrong.extend(sources().iter().flat_map(|file| file.mentions(&["fn get_"])));
    none(wrong);
}

// ---- what is read ---------------------------------------------------------

/// One file of `src/`, without its tests, comments and literals.
struct Source {
    path: String,
    code: String,
    lines: usize,
}

impl Source {
    /// `relay` for `relay/frame.rs`, `close` for `close.rs`.
    fn room(&self) -> &str {
        let first = self.path.split('/').next().unwrap_or_default();
        first.trim_end_matches(".rs")
    }

    /// Whether the file is one of `places`: rooms, or files by their path.
    fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| *place == self.path || *place == self.room())
    }

    /// How many modules deep the file is: `close.rs` 1, `relay/frame.rs` 2.
    fn depth(&self) -> usize {
        let parts = self.path.split('/').count();
        if self.path.ends_with("mod.rs") { parts - 1 } else { parts }
    }

    /// The rooms that the file's paths name.
    fn imports(&self) -> BTreeSet<String> {
        let mut rooms = paths_after(&self.code, "crate::");
        if self.path == "main.rs" {
            rooms.extend(paths_after(&self.code, "sockgate::"));
        }
        rooms.extend(paths_after(&self.code, &"super::".repeat(self.depth())));
        rooms
    }

    /// The lines that hold one of `words`.
    fn mentions(&self, words: &[&str]) -> Vec<String> {
        let mut found = Vec::new();
        for (number, line) in self.code.lines().enumerate() {
            for word in words.iter().filter(|word| has_word(line, word)) {
                found.push(format!("{}:{}: {}", self.path, number + 1, word.trim()));
            }
        }
        found
    }
}

/// The rows of the table in `ARCHITECTURE.md`: a room, and what it may import.
fn table() -> Vec<(String, Vec<String>)> {
    let text = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    let rows = text.lines().skip_while(|line| !line.starts_with("| room | may import |")).skip(2);
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
            let [room, imports] = cells[..] else { panic!("not two cells: {line}") };
            let named = |cell: &str| {
                cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>()
            };
            let room = named(room).pop().unwrap_or_else(|| panic!("no room in: {line}"));
            (room, named(imports))
        })
        .collect()
}

/// Every file of `src/` that is not a test, test items cut out of it.
fn sources() -> Vec<Source> {
    let files: Vec<(String, String)> =
        files().into_iter().map(|(path, text)| (path, without_text(&text))).collect();
    let tests: Vec<String> =
        files.iter().flat_map(|(path, code)| test_modules(path, code)).collect();
    let is_test = |path: &str| {
        path.ends_with("/tests.rs")
            || path.contains("/tests/")
            || tests
                .iter()
                .any(|test| path == format!("{test}.rs") || path.starts_with(&format!("{test}/")))
    };
    let sources: Vec<Source> = files
        .into_iter()
        .filter(|(path, _)| !is_test(path))
        .map(|(path, text)| Source {
            lines: text.lines().count(),
            code: without_item(&text, "#[cfg(test)]"),
            path,
        })
        .collect();
    assert!(sources.len() > 30, "only {} sources were found", sources.len());
    sources
}

/// Path under `src/` and text of every Rust file there.
fn files() -> Vec<(String, String)> {
    let src = root().join("src");
    let mut found = Vec::new();
    let mut directories = vec![src.clone()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(&directory).expect("a directory of src/") {
            let path = entry.expect("an entry of src/").path();
            if path.is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("a source file");
                let name =
                    path.strip_prefix(&src).expect("under src/").to_string_lossy().into_owned();
                found.push((name, text));
            }
        }
    }
    found.sort();
    found
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ---- the scanner ----------------------------------------------------------

/// `text` with comments and the insides of literals blanked, line for line.
fn without_text(text: &str) -> String {
    let chars: Vec<char> = text.chars().collect();
    let mut code = String::with_capacity(text.len());
    let mut at = 0;
    while at < chars.len() {
        let end = match (chars[at], chars.get(at + 1)) {
            ('/', Some('/')) => at + chars[at..].iter().take_while(|c| **c != '\n').count(),
            ('/', Some('*')) => after(&chars, at + 2, &['*', '/']),
            ('r', Some('"' | '#')) if !chars[..at].last().is_some_and(|c| is_word(*c)) => {
                let hashes = chars[at + 1..].iter().take_while(|c| **c == '#').count();
                if chars.get(at + 1 + hashes) == Some(&'"') {
                    let close: Vec<char> =
                        std::iter::once('"').chain(std::iter::repeat_n('#', hashes)).collect();
                    after(&chars, at + 2 + hashes, &close)
                } else {
                    at
                }
            }
            ('"', _) => end_of_literal(&chars, at, '"'),
            // A character, not a lifetime.
            ('\'', Some('\\')) => end_of_literal(&chars, at, '\''),
            ('\'', Some(_)) if chars.get(at + 2) == Some(&'\'') => at + 3,
            _ => at,
        };
        if end == at {
            code.push(chars[at]);
            at += 1;
        } else {
            code.extend(chars[at..end].iter().map(|c| if *c == '\n' { '\n' } else { ' ' }));
            at = end;
        }
    }
    code
}

/// Behind the next `close`.
fn after(chars: &[char], from: usize, close: &[char]) -> usize {
    let found = chars[from.min(chars.len())..].windows(close.len()).position(|part| part == close);
    found.map_or(chars.len(), |position| from + position + close.len())
}

/// Behind the literal that opens at `at`.
fn end_of_literal(chars: &[char], at: usize, quote: char) -> usize {
    let mut end = at + 1;
    while end < chars.len() && chars[end] != quote {
        end += if chars[end] == '\\' { 2 } else { 1 };
    }
    (end + 1).min(chars.len())
}

/// `code` with every item that starts at `marker` blanked: up to its `;`, or
/// to the brace that closes it.
fn without_item(code: &str, marker: &str) -> String {
    let mut left = String::with_capacity(code.len());
    let mut rest = code;
    while let Some(start) = rest.find(marker) {
        left.push_str(&rest[..start]);
        let item = &rest[start..];
        let mut depth = 0_usize;
        let mut end = item.len();
        for (at, c) in item.char_indices().skip(marker.len()) {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (c == ';' || c == '}') {
                end = at + 1;
                break;
            }
        }
        left.extend(item[..end].chars().filter(|c| *c == '\n'));
        rest = &item[end..];
    }
    left.push_str(rest);
    left
}

/// The modules that `path` declares for tests alone, as paths without `.rs`.
fn test_modules(path: &str, code: &str) -> Vec<String> {
    let directory = path
        .strip_suffix("mod.rs")
        .map_or_else(|| format!("{}/", path.trim_end_matches(".rs")), str::to_owned);
    code.split("#[cfg(test)]")
        .skip(1)
        .filter_map(|rest| rest.split_once(';').map(|(item, _)| item))
        .filter(|item| !item.contains('{'))
        .filter_map(|item| item.split_whitespace().skip_while(|word| *word != "mod").nth(1))
        .map(|name| format!("{directory}{name}"))
        .collect()
}

/// The first names behind each `prefix`: of `crate::{a::B, c}` both `a` and `c`.
fn paths_after(code: &str, prefix: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, _) in code.match_indices(prefix) {
        let before = &code[..at];
        if before.ends_with(is_word) || before.ends_with("::") {
            continue;
        }
        let rest = &code[at + prefix.len()..];
        let names: Vec<String> = match rest.strip_prefix('{') {
            None => vec![rest.chars().take_while(|c| is_word(*c)).collect()],
            Some(group) => first_names(group),
        };
        // `pub(in crate::x)` has a name; a type or `self` of the crate is none of a room.
        found.extend(
            names.into_iter().filter(|name| name.starts_with(|c: char| c.is_ascii_lowercase())),
        );
    }
    found.remove("super");
    found.remove("self");
    found
}

/// The first name of each item of a group, nested groups left out.
fn first_names(group: &str) -> Vec<String> {
    let mut names = vec![String::new()];
    let (mut depth, mut first) = (0_usize, true);
    for c in group.chars() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => {
                names.push(String::new());
                first = true;
            }
            ':' => first = false,
            c if first && depth == 0 && is_word(c) => {
                names.last_mut().expect("never empty").push(c)
            }
            _ => {}
        }
    }
    names
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

/// Whether `line` holds `word`, not as a part of a longer one. `'static` is a
/// lifetime.
fn has_word(line: &str, word: &str) -> bool {
    let (head, tail) = (word.starts_with(is_word), word.ends_with(is_word));
    line.match_indices(word).any(|(at, _)| {
        let clear_before = !head || !line[..at].ends_with(|c: char| is_word(c) || c == '\'');
        clear_before && !(tail && line[at + word.len()..].starts_with(is_word))
    })
}

// ---- the scanner's own tests ----------------------------------------------

fn source(path: &str, text: &str) -> Source {
    let code = without_item(&without_text(text), "#[cfg(test)]");
    Source { path: path.to_owned(), lines: text.lines().count(), code }
}

#[test]
fn the_scanner_reads_every_form_of_an_import() {
    let file = source(
        "relay/frame.rs",
        "//! [`crate::doc`]\nuse crate::{close::{Reason, Verdict}, unit, clock::Clock as C};\n\
         use super::super::stream::Stream;\nuse super::pump;\nfn f() { crate::tls::load(\"crate::text\") }\n\
         /* crate::comment */ const X: &str = r#\"crate::raw \"quoted\" \"#; type T = crate::Root;\n",
    );
    let imports: Vec<String> = file.imports().into_iter().collect();
    assert_eq!(imports, ["clock", "close", "stream", "tls", "unit"]);
}

#[test]
fn the_scanner_leaves_tests_out_and_nothing_else() {
    let file = source(
        "a.rs",
        "fn f<'a>(x: &'a str) { x.find('\"').unwrap(); }\n#[cfg(test)]\n#[path = \"x\"]\nmod tests {\n  use crate::policy;\n\
         fn g() { Some(1).unwrap(); }\n}\nfn h() { println!(\"{}\", '\\''); }\n",
    );
    assert_eq!(
        file.mentions(&[".unwrap()", "println!"]),
        ["a.rs:1: .unwrap()", "a.rs:8: println!"]
    );
    assert_eq!(file.imports(), BTreeSet::new());
    let declared = test_modules(
        "verifier/mod.rs",
        "#[cfg(test)]\npub(crate) mod contract;\n#[cfg(test)]\nmod b { ; }",
    );
    assert_eq!(declared, ["verifier/contract"]);
}

#[test]
fn the_scanner_knows_a_static_from_a_lifetime() {
    let file =
        source("relay/pump.rs", "static A: u8 = 1;\nfn f(x: &'static str, y: &'static u8) {}\n");
    assert_eq!(file.mentions(&["static "]), ["relay/pump.rs:1: static"]);
    let scratch =
        without_item("thread_local! {\n static A: u8 = { 1 };\n}\nfn f() {}", "thread_local!");
    assert_eq!(scratch, "\n\n\nfn f() {}");
}
