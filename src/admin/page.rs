//! The status page: what a browser needs to show `/status`, and nothing from outside.

use axum::http::HeaderName;
use axum::http::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use axum::response::IntoResponse;
use axum::routing::{MethodRouter, get};

/// Its files, by path.
pub(super) const FILES: [(&str, File); 3] = [
    ("/", File { kind: "text/html; charset=utf-8", text: include_str!("page/index.html") }),
    ("/page.css", File { kind: "text/css; charset=utf-8", text: include_str!("page/page.css") }),
    (
        "/page.js",
        File { kind: "text/javascript; charset=utf-8", text: include_str!("page/page.js") },
    ),
];

/// Only what is served here, not even a script within the page; and in nobody's frame.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file of the page.
#[derive(Clone, Copy, Debug)]
pub(super) struct File {
    kind: &'static str,
    text: &'static str,
}

impl File {
    /// Answers with it.
    pub(super) fn route<S: Clone + Send + Sync + 'static>(self) -> MethodRouter<S> {
        get(move || async move { (self.headers(), self.text).into_response() })
    }

    fn headers(self) -> [(HeaderName, &'static str); 5] {
        [
            (CONTENT_TYPE, self.kind),
            // A new version of the bridge brings a new page.
            (CACHE_CONTROL, "no-cache"),
            (CONTENT_SECURITY_POLICY, POLICY),
            (X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (REFERRER_POLICY, "no-referrer"),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_small_and_asks_nobody_else() {
        let size: usize = FILES.iter().map(|(_, file)| file.text.len()).sum();
        assert!((1_000..40_000).contains(&size), "{size} bytes");
        for (path, File { text, .. }) in FILES {
            // The name of a namespace of XML is no address.
            let text = text.replace("http://www.w3.org/2000/svg", "");
            for word in ["http:", "https:", "url(", "@import", "innerHTML", " style=", " onclick="]
            {
                assert!(!text.contains(word), "{word} in {path}");
            }
        }
    }
}
