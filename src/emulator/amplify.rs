//! The lines that make the Amplify client speak with the emulator.

use std::path::Path;

/// The lines for a browser, and for Node.
pub struct AmplifyLines {
    /// For a page, or what a bundler makes one of.
    pub browser: String,
    /// For a file that Node runs.
    pub node: String,
}

impl AmplifyLines {
    /// For this endpoint, the region that signatures have to name, and this key. `ca_file` is what a client has to trust, if the endpoint has a certificate of its
    /// own making.
    #[must_use]
    pub fn new(
        endpoint: &str,
        region: Option<&str>,
        api_key: &str,
        namespace: &str,
        ca_file: Option<&Path>,
    ) -> Self {
        // Amplify wants one, and signs for it.
        let region = region.unwrap_or("us-east-1");
        // Amplify goes to `wss://` even for `http://`, unless it does not know the scheme.
        let spelled = endpoint.replacen("http://", "HTTP://", 1);
        let why = if spelled == endpoint { "" } else { " // upper case: else Amplify uses wss://" };
        let body = format!(
            "Amplify.configure({{ API: {{ Events: {{
  endpoint: '{spelled}',{why}
  region: '{region}',
  defaultAuthMode: 'apiKey',
  apiKey: '{api_key}',
}} }} }});
const channel = await events.connect('/{namespace}/*');
const subscription = channel.subscribe({{ next: (data) => console.log(data.event), error: console.error }});
await subscription.ready;
await events.post('/{namespace}/hello', {{ n: 1 }});"
        );
        let imports =
            "import { Amplify } from 'aws-amplify';\nimport { events } from 'aws-amplify/data';";
        let ca = ca_file.map(|file| file.display().to_string());
        let in_browser = ca.as_ref().map_or(String::new(), |file| {
            format!("// the browser has to trust {file}: import it as an authority\n")
        });
        let in_node = ca
            .as_ref()
            .map_or(String::new(), |file| format!("// run it with NODE_EXTRA_CA_CERTS={file}\n"));
        Self {
            browser: format!("// npm install aws-amplify\n{in_browser}{imports}\n\n{body}"),
            node: format!(
                "// npm install aws-amplify ws; a file that ends in .mjs\n{in_node}{imports}\n\
                 import WebSocket from 'ws';\n\n\
                 globalThis.WebSocket ??= WebSocket; // Node has none before version 22\n{body}"
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn they_name_what_a_client_needs() {
        let plain = AmplifyLines::new("http://127.0.0.1:1/event", None, "da2-local", "demo", None);
        for text in [&plain.browser, &plain.node] {
            assert!(text.contains("endpoint: 'HTTP://127.0.0.1:1/event', // upper case"), "{text}");
            assert!(text.contains("events.connect('/demo/*')"), "{text}");
        }
        assert!(plain.node.contains("from 'ws'") && !plain.browser.contains("'ws'"));
        let file = Path::new("/tmp/e/ca.pem");
        let tls = AmplifyLines::new(
            "https://127.0.0.1:1/event",
            Some("eu-west-1"),
            "k",
            "demo",
            Some(file),
        );
        assert!(plain.node.contains("region: 'us-east-1'"), "{}", plain.node);
        assert!(tls.node.contains("region: 'eu-west-1'"), "{}", tls.node);
        assert!(
            tls.browser.contains("endpoint: 'https://127.0.0.1:1/event',\n"),
            "{}",
            tls.browser
        );
        assert!(tls.browser.contains("trust /tmp/e/ca.pem"), "{}", tls.browser);
        assert!(tls.node.contains("NODE_EXTRA_CA_CERTS=/tmp/e/ca.pem"), "{}", tls.node);
    }
}
