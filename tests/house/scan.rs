//! A scanner of words, not a compiler: it blanks comments and literals, leaves
//! out items by their marker, and reads the first names of paths.

use std::collections::BTreeSet;
use std::ops::Range;

/// `text` with comments and the insides of literals blanked, line for line.
pub(crate) fn without_text(text: &str) -> String {
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

/// `code` with every item that starts at `marker` blanked.
pub(crate) fn without_item(code: &str, marker: &str) -> String {
    let mut left = String::with_capacity(code.len());
    let mut at = 0;
    for item in items(code, marker) {
        left.push_str(&code[at..item.start]);
        left.extend(code[item.clone()].chars().filter(|c| *c == '\n'));
        at = item.end;
    }
    left.push_str(&code[at..]);
    left
}

/// The items that start at `marker`: up to their `;`, or to the brace that
/// closes them.
pub(crate) fn items(code: &str, marker: &str) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut from = 0;
    while let Some(start) = code[from..].find(marker).map(|at| from + at) {
        let mut depth = 0_usize;
        let mut end = code.len();
        for (at, c) in code[start..].char_indices().skip(marker.chars().count()) {
            match c {
                '{' | '(' | '[' => depth += 1,
                '}' | ')' | ']' => depth = depth.saturating_sub(1),
                _ => {}
            }
            if depth == 0 && (c == ';' || c == '}') {
                end = start + at + 1;
                break;
            }
        }
        found.push(start..end);
        from = end;
    }
    found
}

/// The first names behind each `prefix`: of `crate::{a::B, c}` both `a` and `c`.
pub(crate) fn paths_after(code: &str, prefix: &str) -> BTreeSet<String> {
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
pub(crate) fn has_word(line: &str, word: &str) -> bool {
    let (head, tail) = (word.starts_with(is_word), word.ends_with(is_word));
    line.match_indices(word).any(|(at, _)| {
        let clear_before = !head || !line[..at].ends_with(|c: char| is_word(c) || c == '\'');
        clear_before && !(tail && line[at + word.len()..].starts_with(is_word))
    })
}
