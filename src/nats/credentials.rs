//! The answer to a server's greeting: who the bridge is. Read anew for each connection, so that what a file holds by
//! then is what counts.

use async_nats::{Auth, AuthError};
use nkeys::KeyPair;

use crate::config::nats;

/// Answers the `nonce` of a greeting.
pub(super) async fn answer(auth: nats::Auth, nonce: Vec<u8>) -> Result<Auth, AuthError> {
    let mut answer = Auth::new();
    match auth {
        nats::Auth::Token(token) => answer.token = Some(token.reread().await.to_string()),
        nats::Auth::Login { user, password } => {
            answer.username = Some(user);
            answer.password = Some(password.reread().await.to_string());
        }
        nats::Auth::Nkey(seed) => {
            let pair = pair(&seed.reread().await)?;
            answer.nkey = Some(pair.public_key());
            answer.signature = Some(sign(&pair, &nonce)?);
        }
        nats::Auth::Credentials(file) => {
            let content = file.reread().await;
            let block = |what: &str| {
                block(&content, what).ok_or_else(|| {
                    AuthError::new(format!("there is no {what} in the credentials file"))
                })
            };
            let (jwt, seed) = (block("NATS USER JWT")?, block("USER NKEY SEED")?);
            answer.jwt = Some(jwt.to_owned());
            answer.signature = Some(sign(&pair(seed)?, &nonce)?);
        }
    }
    Ok(answer)
}

/// The line between `-----BEGIN …-----` and `------END …------`.
fn block<'c>(content: &'c str, what: &str) -> Option<&'c str> {
    let mut lines = content.lines().map(str::trim);
    lines.find(|line| line.starts_with("---") && line.contains(&format!("BEGIN {what}")))?;
    lines.find(|line| !line.is_empty()).filter(|line| !line.starts_with("---"))
}

/// An error of the library would say what it was given.
fn pair(seed: &str) -> Result<KeyPair, AuthError> {
    KeyPair::from_seed(seed).map_err(|_| AuthError::new("the seed of the nkey is none"))
}

fn sign(pair: &KeyPair, nonce: &[u8]) -> Result<Vec<u8>, AuthError> {
    pair.sign(nonce).map_err(|_| AuthError::new("the nkey can't sign"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Secret;

    #[tokio::test]
    async fn a_seed_and_a_credentials_file_sign_the_nonce() {
        let user = KeyPair::new_user();
        let seed = user.seed().unwrap();
        let file = format!(
            "-----BEGIN NATS USER JWT-----\ne30.e30.x\n------END NATS USER JWT------\n\n*** IMPORTANT ***\n\
             -----BEGIN USER NKEY SEED-----\r\n{seed}\r\n------END USER NKEY SEED------\n"
        );
        let nonce = b"nonce".to_vec();
        for auth in
            [nats::Auth::Nkey(Secret::new(seed)), nats::Auth::Credentials(Secret::new(file))]
        {
            let jwt = matches!(auth, nats::Auth::Credentials(_)).then(|| "e30.e30.x".to_owned());
            let answer = answer(auth, nonce.clone()).await.unwrap();
            user.verify(&nonce, &answer.signature.unwrap()).unwrap();
            assert_eq!(answer.jwt, jwt);
            assert_eq!(answer.nkey.is_some(), jwt.is_none());
        }
    }

    #[tokio::test]
    async fn what_is_no_seed_is_not_repeated() {
        let auth = nats::Auth::Nkey(Secret::new("SUHUNTER2"));
        let error = answer(auth, Vec::new()).await.err().unwrap().to_string();
        assert!(!error.contains("HUNTER2"), "{error}");
    }
}
