//! The configuration of the demo's bridge: an ordinary one, which a user can copy.

use std::net::SocketAddr;
use std::path::Path;

/// The name of the bridge's session at the broker.
pub(super) const BRIDGE: &str = "appsync-bridge-demo";

/// What people publish by hand has a topic that begins so.
pub(super) const SPOKEN: &str = "demo/";

/// The text of the configuration. `broker` is the line to it.
pub(super) fn text(
    endpoint: &str,
    api_key: &str,
    broker: SocketAddr,
    rejects: &Path,
    admin: SocketAddr,
) -> String {
    format!(
        r#"[api.main]
endpoint = "{endpoint}"
auth     = {{ type = "api-key", key = "{api_key}" }}

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
