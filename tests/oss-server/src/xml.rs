//! Writing the XML documents of OSS: nested elements with text, nothing else.

/// An element under construction.
#[derive(Debug)]
pub(crate) struct Element {
    name: &'static str,
    inner: String,
}

impl Element {
    /// An empty element.
    pub(crate) fn new(name: &'static str) -> Self {
        Self { name, inner: String::new() }
    }

    /// Adds a child with text, which is escaped.
    pub(crate) fn text(mut self, name: &str, text: &str) -> Self {
        self.inner.push_str(&format!("<{name}>{}</{name}>", escape(text)));
        self
    }

    /// Adds a child element.
    pub(crate) fn child(mut self, child: &Self) -> Self {
        self.inner.push_str(&format!("<{0}>{1}</{0}>", child.name, child.inner));
        self
    }
}

/// The whole document with this root.
pub(crate) fn document(root: Element) -> String {
    let Element { name, inner } = root;
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<{name}>{inner}</{name}>")
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for letter in text.chars() {
        match letter {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '\r' => escaped.push_str("&#13;"),
            _ => escaped.push(letter),
        }
    }
    escaped
}
