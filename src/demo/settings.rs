//! The configuration of the demo's bridge: an ordinary one, which a user can copy.

use std::net::SocketAddr;
use std::path::Path;

/// The name of the bridge's session at the broker.
pub(super) const BRIDGE: &str = "appsync-bridge-demo";

/// What people publish by hand has a topic that begins so.
pub(super) const SPOKEN: &str = "demo/";

/// How the bridge shows the Event API who it is.
#[derive(Clone, Debug)]
pub(super) enum Shown {
    /// The key that the page has, too.
    Key(String),
    /// A token that nobody else has: who has the key can look, and publish nothing.
    Token(String),
}

impl Shown {
    /// `auth`, with the secret in it.
    fn auth(&self) -> String {
        match self {
            Self::Key(key) => format!(r#"{{ type = "api-key", key = "{key}" }}"#),
            Self::Token(token) => format!(r#"{{ type = "token", token = "{token}" }}"#),
        }
    }

    /// The configuration as everybody may see it who opens the page.
    pub(super) fn hidden_in(&self, text: &str) -> String {
        match self {
            Self::Key(_) => text.to_owned(),
            Self::Token(token) => text.replace(token, "…"),
        }
    }
}

/// The text of the configuration. `broker` is the line to it. The API may be at an address of the network: it is this
/// machine's own, so nothing leaves it.
pub(super) fn text(
    endpoint: &str,
    shown: &Shown,
    broker: SocketAddr,
    rejects: &Path,
    admin: SocketAddr,
) -> String {
    let auth = shown.auth();
    let plaintext = match shown {
        Shown::Key(_) => "",
        Shown::Token(_) => "dangerously_plaintext = true         # to an address of this machine\n",
    };
    format!(
        r#"[api.main]
endpoint = "{endpoint}"
auth     = {auth}
{plaintext}
[source.city]                        # QoS 1 and a session that outlives a crash, as by default
type          = "mqtt"
url           = "mqtt://{broker}"
client_id     = "{BRIDGE}"
subscriptions = ["fleet/+/+/position", "{SPOKEN}#"]

[route.fleet]                        # fleet/north/van-07/position -> /demo/fleet/north
from    = "city"
topic   = "fleet/{{district}}/{{van}}/position"
channel = "/demo/fleet/{{district}}"

[route.messages]                     # demo/hello -> /demo/hello
from    = "city"
topic   = "{SPOKEN}{{path..}}"
channel = "/demo/{{path..}}"

[dead_letter.rejects]                # what can't be published
type = "file"
path = "{}"

[admin]                              # status page, /metrics, /readyz
listen = "{admin}"
"#,
        rejects.display()
    )
}
