//! Pages of HTML: one style for all, and what a browser may do with them, which is nothing but to show them.

use tiny_http::ResponseBox;

use super::response::{header, response};

const STYLE: &str = include_str!("page.css");

/// Of the style, by its hash: what else may come to stand in a page, as by a mistake with a name that a peer chose,
/// is no style, no script and leads nowhere. The icon is in the page, too.
const POLICY: &str = "default-src 'none'; style-src 'sha256-nN+rN8E1sRdrBDoBN7FYj+3Z05hLxCRY7qHHQZwJX8A='; \
     img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A page with a title in plain text, and HTML for its head and body.
pub(super) fn page(title: &str, head: &str, body: &str) -> ResponseBox {
    let title = escape(title);
    let page = format!(
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n{head}<style>{STYLE}</style>\n</head>\n<body>\n{body}</body>\n</html>\n"
    );
    response(200, "text/html; charset=utf-8", page.into_bytes())
        .with_header(header("Content-Security-Policy", POLICY))
        .with_header(header("Referrer-Policy", "no-referrer"))
}

/// Text of others as HTML, also between double quotes; what a browser does not show is a space.
pub(super) fn escape(text: &str) -> String {
    let mut html = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            c if c.is_control() => html.push(' '),
            c => html.push(c),
        }
    }
    html
}

/// The same of at most `most` characters.
pub(super) fn shortened(text: &str, most: usize) -> String {
    match text.char_indices().nth(most) {
        Some((end, _)) => escape(&text[..end]) + "…",
        None => escape(text),
    }
}
