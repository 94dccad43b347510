//! The rules of the house, read out of the sources: who may import whom (the
//! table in `ARCHITECTURE.md`), which rooms are pure, and what no file does.
//!
//! Read are `crate::`, `super::` and `sockgate::` paths, outside of test code.

#![expect(clippy::expect_used, reason = "all of it is test code")]

#[path = "house/scan.rs"]
mod scan;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use self::scan::{has_word, items, paths_after, without_item, without_text};

/// Rooms that take values and return values.
const PURE: &[&str] = &["route", "policy", "identity", "close", "credential", "relay/frame.rs"];
/// What a pure room has no business with.
const IMPURE: &[&str] =
    &["tokio", "SystemTime", "Instant::now", "std::fs", "std::net::TcpStream", "std::thread"];
/// Where a line may be printed.
const PRINTING: &[&str] = &["cli", "main", "telemetry"];
/// Who may make an `Identity`.
const PROVING: &[&str] = &["verifier", "identity"];
/// Who may let an upstream speak before there is a permit: a route's plan, from its
/// compiled policy.
const PREVIEWING: &[&str] = &["policy", "pipeline/plan.rs", "pipeline/build.rs"];
/// Names that say nothing about what is in a room.
const NAMELESS: &[&str] =
    &["util", "utils", "helper", "helpers", "common", "misc", "types", "manager"];
/// What marks an item as test code.
const TESTS: &str = "#[cfg(test)]";
/// How long a file may be, its tests not counted.
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
fn only_a_routes_plan_makes_previews() {
    let sources = sources();
    assert!(
        sources.iter().any(|file| file.code.contains("pub struct Previews")),
        "Previews is gone"
    );
    let naming = sources.iter().filter(|file| !file.mentions(&["Previews"]).is_empty());
    none(naming.filter(|file| !file.is_in(PREVIEWING)).map(|file| file.path.clone()).collect());
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
    // The relay's scratch buffer, one per thread, and the allocator are the only
    // exceptions.
    let statics = ["static ", "OnceLock", "LazyLock", "lazy_static!", "thread_local!"];
    let mut wrong = Vec::new();
    for file in sources() {
        let mut file = file;
        if file.room() == "relay" {
            file.code = without_item(&file.code, "thread_local!");
        }
        if file.room() == "main" {
            file.code = without_item(&file.code, "static ALLOCATOR");
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
    /// What is left of `text`, comments and literals already blanked.
    fn new(path: String, text: &str) -> Source {
        let tests =
            items(text, TESTS).into_iter().map(|item| text[item].lines().count()).sum::<usize>();
        Source { lines: text.lines().count() - tests, code: without_item(text, TESTS), path }
    }

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
        .map(|(path, text)| Source::new(path, &text))
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

/// The modules that `path` declares for tests alone, as paths without `.rs`.
fn test_modules(path: &str, code: &str) -> Vec<String> {
    let directory = path
        .strip_suffix("mod.rs")
        .map_or_else(|| format!("{}/", path.trim_end_matches(".rs")), str::to_owned);
    code.split(TESTS)
        .skip(1)
        .filter_map(|rest| rest.split_once(';').map(|(item, _)| item))
        .filter(|item| !item.contains('{'))
        .filter_map(|item| item.split_whitespace().skip_while(|word| *word != "mod").nth(1))
        .map(|name| format!("{directory}{name}"))
        .collect()
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

#[track_caller]
fn none(wrong: Vec<String>) {
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

// ---- the scanner's own tests ----------------------------------------------

fn source(path: &str, text: &str) -> Source {
    Source::new(path.to_owned(), &without_text(text))
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
    assert_eq!(file.lines, 2);
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
