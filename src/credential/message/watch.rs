//! Follows a message for what a reader of JSON could find in it, a piece at a time: one
//! that is too large to be held, or that only some readers take for JSON. A login must
//! not slip past to the upstream because it was padded, or misspelt.
//!
//! Lenient as the [`probe`](super::probe) is, and more: a name may occur twice and each
//! occurrence counts; comments, single quotes, words without quotes, `NaN`, `;` and `=`
//! are what readers such as Python's, Gson, Newtonsoft and older ones of Ruby take, some
//! of them without being asked. Well-formed JSON has none of these outside of strings.

use memchr::memchr2;
use serde_json::Value;

use super::places::is_same;
use super::pointer::array_index;
use super::sought::Sought;
use super::wide::Decoder;

/// The conditions of a login, followed through one message.
pub(super) struct LoginWatch {
    decoder: Decoder,
    opening: Opening,
    /// One, until readers differ.
    readings: Vec<Reading>,
}

/// How the message begins. What begins like nothing that could hold a login is
/// not looked at any further: JSON in the middle of it is nobody's.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Opening {
    Awaited,
    Json,
    Other,
}

/// One way to read the message.
#[derive(Clone)]
struct Reading {
    conditions: Vec<Condition>,
    /// Where the credential stands. It may come before what tells that it is one.
    credential: Option<Condition>,
    /// A text has begun there.
    shown: bool,
    depth: usize,
    lexeme: Lexeme,
    text: Vec<u8>,
    /// Whether a carriage return ends the comments that a line ends.
    returns: bool,
}

/// What the bytes so far have begun.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lexeme {
    None,
    String {
        quote: u8,
        escaped: bool,
    },
    Literal,
    /// Perhaps a comment.
    Slash,
    /// A comment up to the end of the line.
    Line,
    /// A comment up to `*/`.
    Block {
        star: bool,
    },
}

#[derive(Clone)]
struct Condition {
    sought: Sought,
    /// Something else was found there.
    missed: bool,
    /// The containers from the root on that lie on the pointer's way.
    way: Vec<Step>,
    found: bool,
}

#[derive(Clone)]
struct Step {
    is_array: bool,
    index: usize,
    expects_name: bool,
    /// The current member is the one that the pointer names.
    here: bool,
}

/// A string, or a word without quotes.
struct Scalar {
    text: String,
    value: Value,
}

/// The longest string or literal that is compared; a longer one is nothing that
/// a pointer or a condition of a sane size says.
const LONGEST: usize = 4096;

/// Whether a message begins as one does that a reader of JSON could take for an object
/// or a list; none if that cannot be told yet. Blanks, marks and comments may come
/// first, and the line that Gson skips, `)]}'`.
pub(super) fn begins(message: &[u8]) -> Option<bool> {
    let is_before = |byte: &u8| matches!(byte, b'\t'..=b'\r' | b' ' | 0x80..);
    let before = message.iter().take_while(|byte| is_before(byte)).count();
    match message.get(before..)? {
        [] | [b'/'] => None,
        [b'{' | b'[' | b'#' | b')', ..] | [b'/', b'*' | b'/', ..] => Some(true),
        _ => Some(false),
    }
}

impl LoginWatch {
    pub(super) fn new(conditions: &[Sought]) -> LoginWatch {
        let reading = Reading {
            conditions: conditions.iter().map(Condition::new).collect(),
            credential: None,
            shown: false,
            depth: 0,
            lexeme: Lexeme::None,
            text: Vec::new(),
            returns: false,
        };
        LoginWatch {
            decoder: Decoder::default(),
            opening: Opening::Awaited,
            readings: vec![reading],
        }
    }

    /// The same, but a text where `credential` is sought is one as soon as it begins,
    /// unless what came before it tells that this is no login.
    pub(super) fn with_credential(mut self, credential: &Sought) -> LoginWatch {
        for reading in &mut self.readings {
            reading.credential = Some(Condition::new(credential));
        }
        self
    }

    /// Reads on; whether the message is a login by what came so far, or shows what may
    /// be the credential of one.
    pub(super) fn is_login(&mut self, piece: &[u8]) -> bool {
        let piece = self.decoder.decode(piece);
        if self.opening == Opening::Awaited {
            // A slash that may begin a comment has been read when it is told.
            let slash = self.readings.iter().any(|reading| reading.lexeme == Lexeme::Slash);
            let begun = if slash { [b"/", &*piece].concat() } else { piece.to_vec() };
            match begins(&begun) {
                None => {}
                Some(true) => self.opening = Opening::Json,
                Some(false) => self.opening = Opening::Other,
            }
        }
        if self.opening == Opening::Other {
            return false;
        }
        let mut rest = &*piece;
        while !rest.is_empty() {
            if let [reading] = &mut self.readings[..] {
                rest = &rest[reading.read_text(rest)..];
            }
            if let Some((byte, behind)) = rest.split_first() {
                self.read(*byte);
                rest = behind;
            }
        }
        self.readings.iter().any(Reading::is_login)
    }

    fn read(&mut self, byte: u8) {
        if let [reading] = &*self.readings
            && byte == b'\r'
            && reading.lexeme == Lexeme::Line
        {
            // From here on readers differ.
            self.readings.push(Reading { returns: true, ..reading.clone() });
        }
        for reading in &mut self.readings {
            reading.read(byte);
        }
    }
}

impl Reading {
    fn is_login(&self) -> bool {
        let mut conditions = self.conditions.iter();
        match self.shown {
            true => conditions.all(|condition| condition.found || !condition.missed),
            false => conditions.all(|condition| condition.found),
        }
    }

    fn all(&mut self) -> impl Iterator<Item = &mut Condition> {
        self.conditions.iter_mut().chain(&mut self.credential)
    }

    fn read(&mut self, byte: u8) {
        match (self.lexeme, byte) {
            (Lexeme::String { escaped: false, quote }, _) if byte == quote => self.end_scalar(true),
            (Lexeme::String { escaped, quote }, _) => {
                let escaped = !escaped && byte == b'\\';
                self.lexeme = Lexeme::String { escaped, quote };
                self.keep(byte);
            }
            (Lexeme::Line, b'\n') => self.lexeme = Lexeme::None,
            (Lexeme::Line, b'\r') if self.returns => self.lexeme = Lexeme::None,
            (Lexeme::Block { star: true }, b'/') => self.lexeme = Lexeme::None,
            (Lexeme::Block { .. }, _) => self.lexeme = Lexeme::Block { star: byte == b'*' },
            (Lexeme::Slash, b'/') => self.lexeme = Lexeme::Line,
            (Lexeme::Slash, b'*') => self.lexeme = Lexeme::Block { star: false },
            (Lexeme::Slash, _) => {
                self.lexeme = Lexeme::None;
                self.read(byte);
            }
            (Lexeme::Line, _) => {}
            (Lexeme::None | Lexeme::Literal, b'/' | b'#') => {
                self.end_literal();
                self.lexeme = if byte == b'/' { Lexeme::Slash } else { Lexeme::Line };
            }
            (
                Lexeme::None | Lexeme::Literal,
                b'{' | b'[' | b'}' | b']' | b',' | b':' | b';' | b'=',
            ) => {
                self.end_literal();
                self.structure(byte);
            }
            // Nobody looks for a string at the root, where Gson may have skipped half of one.
            (Lexeme::None, b'"' | b'\'') if self.depth > 0 => {
                self.lexeme = Lexeme::String { quote: byte, escaped: false };
                self.shown |= self.credential.as_ref().is_some_and(|one| one.is_value(self.depth));
            }
            (Lexeme::None | Lexeme::Literal, ..=b' ') => self.end_literal(),
            // Blanks of Unicode, and the rest of `=>`.
            (Lexeme::None, 0x80.. | b'>') => {}
            (Lexeme::None | Lexeme::Literal, _) => {
                self.lexeme = Lexeme::Literal;
                self.keep(byte);
            }
        }
    }

    /// Goes on in a string, as far as it is nothing but text; how far that is.
    fn read_text(&mut self, bytes: &[u8]) -> usize {
        let Lexeme::String { escaped: false, quote } = self.lexeme else { return 0 };
        let length = memchr2(quote, b'\\', bytes).unwrap_or(bytes.len());
        let room = (LONGEST + 1).saturating_sub(self.text.len());
        self.text.extend_from_slice(&bytes[..length.min(room)]);
        length
    }

    fn keep(&mut self, byte: u8) {
        if self.text.len() <= LONGEST {
            self.text.push(byte);
        }
    }

    /// What has ended, if it can be anything to compare.
    fn ended(&mut self, quoted: bool) -> Option<Scalar> {
        self.lexeme = Lexeme::None;
        let text = std::mem::take(&mut self.text);
        if text.len() > LONGEST {
            return None;
        }
        let text = String::from_utf8_lossy(&text);
        if quoted {
            let text = unescaped(&text);
            return Some(Scalar { value: Value::from(text.as_str()), text });
        }
        let is_blank = |one: char| one.is_whitespace() || one == '\u{feff}';
        let text = unescaped(text.trim_matches(is_blank));
        let value = serde_json::from_str(&text).unwrap_or_else(|_| Value::from(text.as_str()));
        Some(Scalar { text, value })
    }

    /// Whether what has ended is of interest to a condition.
    fn is_wanted(&self) -> bool {
        let mut all = self.conditions.iter().chain(&self.credential);
        all.any(|condition| condition.wants(self.depth))
    }

    fn end_literal(&mut self) {
        if self.lexeme == Lexeme::Literal {
            self.end_scalar(false);
        }
    }

    fn end_scalar(&mut self, quoted: bool) {
        if !self.is_wanted() {
            // Nearly all: nothing is made of them.
            self.lexeme = Lexeme::None;
            self.text.clear();
            return;
        }
        let (scalar, depth) = (self.ended(quoted), self.depth);
        for condition in self.all() {
            condition.scalar(depth, scalar.as_ref());
        }
    }

    fn structure(&mut self, byte: u8) {
        let depth = self.depth;
        for condition in self.all() {
            match byte {
                b'{' | b'[' => condition.open(depth, byte == b'['),
                b'}' | b']' => condition.close(depth),
                _ => condition.separate(depth, matches!(byte, b',' | b';')),
            }
        }
        match byte {
            b'{' | b'[' => self.depth = self.depth.saturating_add(1),
            b'}' | b']' => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }
}

/// A string without its escapes (RFC 8259 §7, and those of JSON5); of one that is no
/// escape, what it stands before.
fn unescaped(text: &str) -> String {
    let mut units: Vec<u16> = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, behind)) = rest.split_once('\\') {
        units.extend(before.encode_utf16());
        let mut characters = behind.chars();
        let digits = match characters.next() {
            None => break,
            Some('u') => 4,
            Some('x') => 2,
            Some(one) => {
                let meant = match one {
                    'b' => '\u{8}',
                    'f' => '\u{c}',
                    'n' => '\n',
                    'r' => '\r',
                    't' => '\t',
                    other => other,
                };
                // The line goes on behind its end.
                let meant = Some(meant).filter(|_| one != '\n');
                units.extend(meant.into_iter().collect::<String>().encode_utf16());
                rest = characters.as_str();
                continue;
            }
        };
        rest = characters.as_str();
        let hex = rest.get(..digits).and_then(|hex| u16::from_str_radix(hex, 16).ok());
        if let Some(unit) = hex {
            units.push(unit);
            rest = &rest[digits..];
        }
    }
    if !rest.contains('\\') {
        units.extend(rest.encode_utf16());
    }
    String::from_utf16_lossy(&units)
}

impl Condition {
    fn new(sought: &Sought) -> Condition {
        Condition { sought: sought.clone(), missed: false, way: Vec::new(), found: false }
    }

    fn tokens(&self) -> &[Box<str>] {
        self.sought.pointer.tokens()
    }

    /// Whether the value that comes next at `depth` is the one that is pointed at.
    fn is_value(&self, depth: usize) -> bool {
        self.is_on_way(depth) && depth == self.tokens().len()
    }

    /// Whether a scalar at `depth` is a name that may be the pointer's, or the value.
    fn wants(&self, depth: usize) -> bool {
        let is_name = self.way.len() == depth && self.way.last().is_some_and(|at| at.expects_name);
        is_name || self.is_value(depth)
    }

    /// Whether what comes next at `depth` lies on the pointer's way.
    fn is_on_way(&self, depth: usize) -> bool {
        self.way.len() == depth && self.way.last().is_none_or(|step| step.here)
    }

    fn open(&mut self, depth: usize, is_array: bool) {
        if !self.is_on_way(depth) {
            return;
        }
        match self.tokens().get(depth) {
            Some(token) => self.way.push(Step {
                is_array,
                index: 0,
                expects_name: !is_array,
                here: is_array && array_index(token) == Some(0),
            }),
            None => self.look(self.sought.expected.is_none()),
        }
    }

    fn close(&mut self, depth: usize) {
        if self.way.len() == depth {
            self.way.pop();
        }
    }

    /// A comma, or else a colon.
    fn separate(&mut self, depth: usize, comma: bool) {
        if self.way.len() != depth {
            return;
        }
        let token = depth.checked_sub(1).and_then(|last| self.sought.pointer.tokens().get(last));
        let (Some(step), Some(token)) = (self.way.last_mut(), token) else { return };
        if !comma {
            step.expects_name = false;
        } else if step.is_array {
            step.index += 1;
            step.here = array_index(token) == Some(step.index);
        } else {
            step.expects_name = true;
            step.here = false;
        }
    }

    fn scalar(&mut self, depth: usize, scalar: Option<&Scalar>) {
        let token = depth.checked_sub(1).and_then(|last| self.sought.pointer.tokens().get(last));
        let inside = self.way.len() == depth;
        match (self.way.last_mut(), token) {
            (Some(step), Some(token)) if inside && step.expects_name => {
                step.here = scalar.is_some_and(|name| is_same(&name.text, token));
            }
            _ => self.value(depth, scalar.map(|scalar| &scalar.value)),
        }
    }

    fn value(&mut self, depth: usize, value: Option<&Value>) {
        if self.is_value(depth) {
            self.look(self.sought.could_be(value));
        }
    }

    fn look(&mut self, is_it: bool) {
        self.found |= is_it;
        self.missed |= !is_it;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::super::pointer::Pointer;
    use super::super::probe::any_at;
    use super::*;

    fn sought(pointer: &str, expected: Option<Value>) -> Sought {
        Sought::new(Pointer::parse(pointer).unwrap(), expected)
    }

    fn is_login(pointer: &str, expected: Option<&Value>, text: &str) -> bool {
        let sought = [sought(pointer, expected.cloned())];
        let mut watch = LoginWatch::new(&sought);
        // The outcome does not depend on the pieces.
        let whole = LoginWatch::new(&sought).is_login(text.as_bytes());
        let pieces = text.as_bytes().chunks(1).map(|piece| watch.is_login(piece));
        assert_eq!(pieces.last().unwrap_or_default(), whole, "{text}");
        whole
    }

    #[test]
    fn a_login_is_seen_before_its_end_in_every_spelling() {
        let auth = json!("auth");
        for text in [
            r#"{"type":"auth""#,
            r#" {"a":[[{"type":1}]],"b":"\"\\","type" : "\u0061uth""#,
            r#"{"type":"chat","\u0074ype":"auth""#,
            r#"{"type":{"type":1},"type":"auth""#,
            r#"{"n":-1e3,"t":true,"type":"auth""#,
            "\u{feff} {\"type\":\"auth\"",
            r#"{"TYPE":"auth""#,
            r#"{"n":-Infinity,"type":"auth""#,
            "{'type':'auth'",
            "{type:auth}",
            "{type\u{feff}:'auth'",
            r#"{"t\u0079pe":"\u0061uth""#,
            "{type:'au\\\nth'",
            "{a='b\\'\"'; type => auth;",
            "/* \" */ // '\n {/*\"*/\"type\"/**/:/*x*/\"auth\"",
            "{# \"\n\"type\":\"auth\"",
            // Readers differ in what ends such a line.
            "{// \r\"\n\"type\":\"auth\"",
            "{// \r\"type\":\"auth\",'\n'",
            ")]}'\n{\"type\":\"auth\"",
            "{\u{a0}\"type\"\u{a0}:\u{a0}\"auth\"",
            r#"{"a":1}{"type":"auth""#,
        ] {
            assert!(is_login("/type", Some(&auth), text), "{text}");
        }
        for text in [
            r#"{"type":"chat","text":"auth","auth":"type"}"#,
            r#"{"a":{"type":"auth"}}"#,
            r#"[{"type":"auth"}]"#,
            r#"{"text":"{\"type\":\"auth\"}"}"#,
            r#""type":"auth""#,
            r#"x {"type":"auth"}"#,
            "\u{1}{\"type\":\"auth\"}",
            r#"/join {"type":"auth"}"#,
            r#"{"url":"http://x#","text":"/*","x":"*/\"type\":\"auth\""}"#,
        ] {
            assert!(!is_login("/type", Some(&auth), text), "{text}");
        }
        assert!(is_login("/a/1/b", Some(&json!(2)), r#"{"a":[{"b":2},{"b":2.0}]"#));
        assert!(!is_login("/a/1/b", Some(&json!(2)), r#"{"a":[{"b":2},{"b":3}]"#));
        assert!(is_login("/token", None, r#"{"token":{"#));
        assert!(!is_login("/token", None, r#"{"t":1,"x":["token"]}"#));
    }

    #[test]
    fn a_credential_that_comes_first_is_seen_as_it_begins_unless_it_is_none() {
        let (kind, token) = ([sought("/type", Some(json!("auth")))], sought("/token", None));
        let watch = || LoginWatch::new(&kind).with_credential(&token);
        for text in [
            r#"{"token":""#,
            r#" {"a":{"type":1},"\u0074oken" : "ey"#,
            r#"{"type":"chat","type":"auth","token":""#,
            r#"{"token":1,"token":"ey"#,
            "{// \r\"token\":\"e",
            "{'Token':'e",
            // What it turned out to be came too late.
            r#"{"type":"auth""#,
        ] {
            assert!(watch().is_login(text.as_bytes()), "{text}");
            let mut pieces = watch();
            assert!(text.as_bytes().chunks(1).any(|piece| pieces.is_login(piece)), "{text}");
        }
        for text in [
            r#"{"type":"chat","token":"ey"}"#,
            r#"{"token":"ey","type":"chat""#,
            r#"{"type":["auth"],"token":"ey"}"#,
            r#"{"a":{"token":"ey"},"b":["token","x"]"#,
            r#"{"token":5,"text":"token""#,
            r#"{"token"#,
        ] {
            assert!(!watch().is_login(text.as_bytes()), "{text}");
        }
    }

    #[test]
    fn every_condition_must_be_met() {
        let sought = [sought("/type", Some(json!("auth"))), sought("/step", Some(json!(1)))];
        let watch = || LoginWatch::new(&sought);
        assert!(watch().is_login(br#"{"step":1,"type":"auth"}"#));
        assert!(!watch().is_login(br#"{"step":2,"type":"auth"}"#));
    }

    fn document() -> impl Strategy<Value = Value> {
        let name = || prop_oneof![Just("type"), Just("a"), Just("0"), Just("q\"\\é")];
        let leaf = prop_oneof![
            Just(json!("auth")),
            Just(json!(null)),
            any::<i32>().prop_map(|number| json!(number)),
            name().prop_map(|name| json!(name)),
        ];
        leaf.prop_recursive(4, 32, 4, move |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
                prop::collection::vec((name(), inner), 0..4).prop_map(|members| {
                    members.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
                }),
            ]
        })
    }

    proptest! {
        #[test]
        fn it_finds_what_the_probe_finds(document in document(), deep in any::<bool>()) {
            let pointer = if deep { "/a/0/type" } else { "/type" };
            let (text, auth) = (document.to_string(), json!("auth"));
            let found = any_at(&text, &sought(pointer, Some(auth.clone())));
            prop_assert_eq!(is_login(pointer, Some(&auth), &text), found, "{}", text);
        }

        #[test]
        fn no_bytes_break_it(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            LoginWatch::new(&[sought("/a/0", None)]).is_login(&bytes);
        }
    }
}
