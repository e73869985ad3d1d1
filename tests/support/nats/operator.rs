//! An operator of NATS: its JWTs, and the credentials of its users.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use nkeys::KeyPair;
use serde_json::{Value, json};

/// An operator with one account, and one more for the server itself.
pub(crate) struct Operator {
    key: KeyPair,
    account: KeyPair,
    system: KeyPair,
}

impl Operator {
    pub(crate) fn new() -> Self {
        let [account, system] = std::array::from_fn(|_| KeyPair::new_account());
        Self { key: KeyPair::new_operator(), account, system }
    }

    /// Lines of the configuration of a server that trusts it.
    pub(crate) fn lines(&self) -> String {
        let accounts: String = [&self.account, &self.system]
            .map(|account| {
                format!("  {}: \"{}\"\n", account.public_key(), self.of_account(account))
            })
            .concat();
        let claims = json!({ "type": "operator", "version": 2 });
        let operator = jwt(&self.key, &self.key.public_key(), "test", &claims);
        let system = self.system.public_key();
        format!(
            "operator: \"{operator}\"\nsystem_account: \"{system}\"\nresolver: MEMORY\nresolver_preload: {{\n{accounts}}}\n"
        )
    }

    /// The content of a credentials file of a user of its account.
    pub(crate) fn credentials(&self) -> String {
        let user = KeyPair::new_user();
        let claims = json!({
            "type": "user", "version": 2, "pub": {}, "sub": {}, "subs": -1, "data": -1, "payload": -1,
        });
        let jwt = jwt(&self.account, &user.public_key(), "bridge", &claims);
        let seed = user.seed().unwrap();
        format!(
            "-----BEGIN NATS USER JWT-----\n{jwt}\n------END NATS USER JWT------\n\n\
             ************************* IMPORTANT *************************\n\
             NKEY Seed printed below can be used to sign and prove identity.\n\n\
             -----BEGIN USER NKEY SEED-----\n{seed}\n------END USER NKEY SEED------\n"
        )
    }

    fn of_account(&self, account: &KeyPair) -> String {
        let all = -1;
        // The server's own has no streams.
        let own = account.public_key() == self.system.public_key();
        let streams = if own { 0 } else { all };
        let claims = json!({
            "type": "account", "version": 2,
            "limits": {
                "subs": all, "data": all, "payload": all, "imports": all, "exports": all, "wildcards": true,
                "conn": all, "leaf": all, "mem_storage": streams, "disk_storage": streams, "streams": streams,
                "consumer": streams,
            },
            "default_permissions": { "pub": {}, "sub": {} },
        });
        jwt(&self.key, &account.public_key(), "account", &claims)
    }
}

/// What `issuer` says of `subject`.
fn jwt(issuer: &KeyPair, subject: &str, name: &str, claims: &Value) -> String {
    let encode = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    let header = json!({ "typ": "JWT", "alg": "ed25519-nkey" });
    let body = json!({
        "jti": subject, "iat": 1_700_000_000, "iss": issuer.public_key(), "name": name, "sub": subject,
        "nats": claims,
    });
    let signed = format!(
        "{}.{}",
        encode(header.to_string().as_bytes()),
        encode(body.to_string().as_bytes())
    );
    let signature = encode(&issuer.sign(signed.as_bytes()).unwrap());
    format!("{signed}.{signature}")
}
