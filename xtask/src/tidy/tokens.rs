//! Just enough of Rust's lexical grammar to search code without hits in comments and literals, and
//! to know which bytes belong to an inline module or to a test. Offsets are those of the file.
//! Source that does not compile may be misread; the compiler says so first.

use std::ops::Range;

/// One file's code with the text of comments, strings and character literals blanked out.
#[derive(Debug)]
pub(super) struct Tokens {
    code: String,
    /// Bodies of inline `mod name { ... }`, in order of their start.
    modules: Vec<Range<usize>>,
    /// Items under `#[cfg(test)]` and functions under `#[test]`.
    tests: Vec<Range<usize>>,
    /// Values of `const` and `static` items.
    constants: Vec<Range<usize>>,
}

impl Tokens {
    pub(super) fn of(text: &str) -> Self {
        let code = blank(text);
        let modules = word_offsets(&code, "mod").filter_map(|at| item_body(&code, at)).collect();
        let tests = ["#[cfg(test)]", "#[cfg(all(test", "#[test]"]
            .iter()
            .flat_map(|attribute| code.match_indices(attribute))
            .filter_map(|(at, _)| item_body(&code, at))
            .collect();
        let constants = ["const", "static"].iter().flat_map(|word| word_offsets(&code, word));
        let constants = constants.filter_map(|at| constant(&code, at)).collect();
        Self { code, modules, tests, constants }
    }

    /// The file's code, of the same length as the file.
    pub(super) fn code(&self) -> &str {
        &self.code
    }

    /// Line of a byte, counted from 1.
    pub(super) fn line_of(&self, offset: usize) -> usize {
        self.code.bytes().take(offset).filter(|&byte| byte == b'\n').count() + 1
    }

    /// Where `word` stands as a whole word.
    pub(super) fn words(&self, word: &str) -> impl Iterator<Item = usize> {
        word_offsets(&self.code, word)
    }

    /// How many inline modules enclose this byte.
    pub(super) fn module_depth(&self, offset: usize) -> usize {
        self.modules.iter().filter(|module| module.contains(&offset)).count()
    }

    /// Whether this byte is evaluated when compiling, where a panic is a compile error.
    pub(super) fn in_constant(&self, offset: usize) -> bool {
        self.constants.iter().any(|constant| constant.contains(&offset))
    }

    /// Whether this byte is compiled for tests only.
    pub(super) fn in_test(&self, offset: usize) -> bool {
        self.tests.iter().any(|test| test.contains(&offset))
    }
}

/// What a constant's item spans, if the keyword at `from` starts one; it may also belong to a
/// `const fn`, a `*const` pointer or a const generic.
fn constant(code: &str, from: usize) -> Option<Range<usize>> {
    let line_start = code[..from].rfind('\n').map_or(0, |end| end + 1);
    let before = code[line_start..from].trim();
    let starts_item = before.is_empty() || before.starts_with("pub");
    let mut words = code[from..].split_whitespace().skip(1);
    let is_item = words.next().is_some_and(|name| name.ends_with(':'));
    let length = code[from..].char_indices().scan(0_i32, |depth, (at, character)| {
        match character {
            '[' | '(' | '{' => *depth += 1,
            ']' | ')' | '}' => *depth -= 1,
            _ => {}
        }
        Some((at, *depth == 0 && character == ';'))
    });
    let end = length.filter(|(_, ends)| *ends).map(|(at, _)| from + at).next()?;
    (starts_item && is_item).then_some(from..end)
}

/// Whether this byte can be part of an identifier.
pub(super) fn is_word(byte: u8) -> bool {
    byte == b'_' || byte.is_ascii_alphanumeric() || byte >= 0x80
}

fn word_offsets(code: &str, word: &str) -> impl Iterator<Item = usize> {
    let bytes = code.as_bytes();
    code.match_indices(word)
        .filter(move |(at, word)| {
            let before = at.checked_sub(1).and_then(|i| bytes.get(i)).is_some_and(|&byte| is_word(byte));
            let after = bytes.get(at + word.len()).is_some_and(|&byte| is_word(byte));
            !before && !after
        })
        .map(|(at, _)| at)
}

/// The braces of the item that starts at `from`; None when it ends in `;` before any.
fn item_body(code: &str, from: usize) -> Option<Range<usize>> {
    let rest = code.get(from..)?;
    let open = from + rest.find(['{', ';'])?;
    if code.as_bytes().get(open) != Some(&b'{') {
        return None;
    }
    let mut depth = 0_usize;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return Some(open..at);
        }
    }
    Some(open..code.len())
}

/// `text` with every byte of comments and literals turned into a space; line ends stay.
fn blank(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut code = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let length = opaque_length(bytes, at).unwrap_or(0);
        for &byte in bytes.iter().skip(at).take(length) {
            code.push(if byte == b'\n' { b'\n' } else { b' ' });
        }
        at += length;
        if length == 0 {
            code.push(bytes[at]);
            at += 1;
        }
    }
    // Only whole comments and literals were replaced, so what is left is UTF-8 still.
    String::from_utf8(code).unwrap_or_default()
}

/// Length of the comment or literal that starts at `at`, if one does.
fn opaque_length(bytes: &[u8], at: usize) -> Option<usize> {
    let rest = bytes.get(at..)?;
    let in_word = at.checked_sub(1).and_then(|i| bytes.get(i)).is_some_and(|&byte| is_word(byte));
    if rest.starts_with(b"//") {
        return Some(rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len()));
    }
    if rest.starts_with(b"/*") {
        return Some(block_comment_length(rest));
    }
    // r"..", br#".."#, cr".."; but not an identifier that ends in r.
    let prefix = rest.iter().take(2).take_while(|byte| matches!(byte, b'b' | b'c' | b'r')).count();
    if !in_word && prefix > 0 && rest.get(prefix - 1) == Some(&b'r') {
        let hashes = rest.iter().skip(prefix).take_while(|&&byte| byte == b'#').count();
        if rest.get(prefix + hashes) == Some(&b'"') {
            return Some(raw_string_length(rest, prefix + hashes + 1, hashes));
        }
    }
    match rest.first()? {
        b'"' => Some(quoted_length(rest, b'"')),
        b'\'' => char_length(rest),
        _ => None,
    }
}

fn block_comment_length(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0_usize, 0);
    while at < rest.len() {
        match rest.get(at..at + 2) {
            Some(b"/*") => (depth, at) = (depth + 1, at + 2),
            Some(b"*/") => (depth, at) = (depth.saturating_sub(1), at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            return at;
        }
    }
    rest.len()
}

fn raw_string_length(rest: &[u8], body: usize, hashes: usize) -> usize {
    let end = [&b"\""[..], &vec![b'#'; hashes]].concat();
    let found = rest.get(body..).and_then(|rest| rest.windows(end.len()).position(|window| window == end));
    found.map_or(rest.len(), |position| body + position + end.len())
}

fn quoted_length(rest: &[u8], quote: u8) -> usize {
    let mut at = 1;
    while let Some(&byte) = rest.get(at) {
        match byte {
            b'\\' => at += 2,
            byte if byte == quote => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// `'x'` and `'\n'` are literals; `'a` is a lifetime.
fn char_length(rest: &[u8]) -> Option<usize> {
    let escaped = rest.get(1) == Some(&b'\\');
    let width = match rest.get(1)? {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    };
    (escaped || rest.get(1 + width) == Some(&b'\'')).then(|| quoted_length(rest, b'\''))
}
