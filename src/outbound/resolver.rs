//! Name resolution by the system; a name with a forbidden address is refused.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use hyper_util::client::legacy::connect::dns::{GaiResolver, Name};
use tower_service::Service;

use crate::config::endpoint::forbidden_address;

/// Resolves names for connections without a proxy. (A proxy resolves them itself.)
#[derive(Clone, Debug)]
pub struct Resolver(GaiResolver);

/// A name that resolves to a forbidden address.
#[derive(Debug, thiserror::Error)]
#[error(
    "the name `{name}` leads to {address}, which is {what}: nothing was sent; who answers for that name?"
)]
struct Forbidden {
    name: String,
    address: std::net::IpAddr,
    what: &'static str,
}

type Found = std::vec::IntoIter<SocketAddr>;
type Finding = Pin<Box<dyn Future<Output = io::Result<Found>> + Send>>;

impl Default for Resolver {
    fn default() -> Self {
        Self(GaiResolver::new())
    }
}

impl Service<Name> for Resolver {
    type Response = Found;
    type Error = io::Error;
    type Future = Finding;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.poll_ready(context)
    }

    fn call(&mut self, name: Name) -> Finding {
        let text = name.as_str().to_owned();
        let finding = self.0.call(name);
        Box::pin(async move { checked(&text, finding.await?) })
    }
}

impl reqwest::dns::Resolve for Resolver {
    fn resolve(&self, name: reqwest::dns::Name) -> reqwest::dns::Resolving {
        let mut resolver = self.clone();
        Box::pin(async move {
            let found = resolver.call(name.as_str().parse()?).await?;
            Ok(Box::new(found) as reqwest::dns::Addrs)
        })
    }
}

/// All addresses or none: a name with one forbidden address among others is suspect.
fn checked(name: &str, found: impl Iterator<Item = SocketAddr>) -> io::Result<Found> {
    let found: Vec<_> = found.collect();
    for address in found.iter().map(SocketAddr::ip) {
        if let Some(what) = forbidden_address(address) {
            let error = Forbidden { name: name.to_owned(), address, what };
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, error));
        }
    }
    Ok(found.into_iter())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look_up(addresses: &[&str]) -> Result<usize, String> {
        let found = addresses.iter().map(|text| SocketAddr::new(text.parse().unwrap(), 0));
        checked("api.example", found).map(Iterator::count).map_err(|error| error.to_string())
    }

    #[test]
    fn a_name_that_leads_to_metadata_is_refused_whatever_else_it_leads_to() {
        for address in [
            "169.254.169.254",
            "fd00:ec2::254",
            "100.100.100.200",
            "::ffff:169.254.169.254",
            "0.0.0.0",
        ] {
            for among in [vec![address], vec!["8.8.8.8", address], vec![address, "2600::1"]] {
                let why = look_up(&among).unwrap_err();
                assert!(why.contains("`api.example`") && why.contains("nothing was sent"), "{why}");
            }
        }
        assert_eq!(look_up(&["127.0.0.1", "::1", "10.0.0.1"]), Ok(3));
    }

    #[tokio::test]
    async fn spellings_that_only_a_resolver_understands_are_looked_up_and_refused() {
        let mut resolver = Resolver::default();
        for name in ["2852039166", "0xa9fea9fe", "0251.0376.0251.0376"] {
            let error = resolver.call(name.parse().unwrap()).await.unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied, "{name}: {error}");
        }
        assert!(resolver.call("localhost".parse().unwrap()).await.unwrap().count() > 0);
    }
}
