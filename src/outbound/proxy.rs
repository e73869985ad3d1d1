//! The proxy for a host, from the environment.

use std::env::VarError;
use std::fmt;

use http::Uri;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};

use super::no_proxy::NoProxy;

/// A proxy that can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// Of an unknown kind.
    #[error("the proxy that `{0}` names is `{1}://`; it has to be `http` or `https`")]
    Scheme(&'static str, String),
    /// Not a URL.
    #[error("`{0}` is not the URL of a proxy; write `http://HOST:PORT`, or leave it empty")]
    Form(&'static str),
}

/// The proxies of the environment, and the hosts reached without one.
#[derive(Clone, Debug, Default)]
pub struct Proxies {
    https: Option<Proxy>,
    no: NoProxy,
}

/// A proxy for `https`.
#[derive(Clone)]
pub struct Proxy {
    /// With user and password, if there are any.
    url: String,
    intercept: Intercept,
}

impl Proxies {
    /// Those of this process: `HTTPS_PROXY`, else `ALL_PROXY`; `NO_PROXY`; each in lower case, too. Empty
    /// is not set. Plain text goes through no proxy: it is for the loopback and for containers, or serves
    /// this machine's credentials.
    pub fn of_process() -> Result<Self, ProxyError> {
        Self::of(|name| match std::env::var(name) {
            Ok(value) => Some(value),
            Err(VarError::NotPresent) => None,
            Err(VarError::NotUnicode(value)) => Some(value.to_string_lossy().into_owned()),
        })
    }

    fn of(variable: impl Fn(&str) -> Option<String>) -> Result<Self, ProxyError> {
        let first = |names: &[&'static str]| {
            let value = |name: &&'static str| {
                let value = variable(name)?.trim().to_owned();
                (!value.is_empty()).then_some((*name, value))
            };
            names.iter().find_map(value)
        };
        let https = first(&["HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"]);
        let https = https.map(|(name, url)| Proxy::parse(name, url)).transpose()?;
        let no = first(&["NO_PROXY", "no_proxy"]).map(|(_, list)| NoProxy::parse(&list));
        Ok(Self { https, no: no.unwrap_or_default() })
    }

    /// The proxy for `to`, if there is one.
    pub fn toward(&self, to: &Uri) -> Option<&Proxy> {
        if to.scheme_str() != Some("https") {
            return None;
        }
        let host = to.host()?;
        self.https.as_ref().filter(|_| !self.no.contains(host, to.port_u16().unwrap_or(443)))
    }

    /// The proxy, and the exceptions for a library that speaks to `ports` only; `None` if it uses no proxy at
    /// all.
    pub fn for_ports(&self, ports: &[u16]) -> Option<(&Proxy, String)> {
        self.https.as_ref().zip(self.no.for_ports(ports))
    }
}

impl Proxy {
    fn parse(name: &'static str, url: String) -> Result<Self, ProxyError> {
        if let Some((scheme, _)) = url.split_once("://")
            && !matches!(scheme.to_ascii_lowercase().as_str(), "http" | "https")
        {
            return Err(ProxyError::Scheme(name, scheme.to_owned()));
        }
        let any = Uri::from_static("https://any.invalid");
        let intercept = Matcher::builder().all(url.as_str()).build().intercept(&any);
        let url = if url.contains("://") { url } else { format!("http://{url}") };
        Ok(Self { intercept: intercept.ok_or(ProxyError::Form(name))?, url })
    }

    /// With scheme, user and password, for its client.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Its address, and the credentials for it.
    pub fn intercept(&self) -> &Intercept {
        &self.intercept
    }
}

impl fmt::Debug for Proxy {
    /// Without user and password.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proxy({})", self.intercept.uri())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(variables: &[(&str, &str)]) -> Result<Proxies, ProxyError> {
        Proxies::of(|name| {
            let found = variables.iter().find(|(known, _)| *known == name);
            found.map(|(_, value)| (*value).to_owned())
        })
    }

    fn way(variables: &[(&str, &str)], to: &str) -> Option<String> {
        let proxies = of(variables).unwrap();
        proxies.toward(&to.parse().unwrap()).map(|proxy| proxy.intercept().uri().to_string())
    }

    #[test]
    fn the_first_variable_that_is_not_empty_counts() {
        let to = "https://api.example/event";
        let p = |name| Some(format!("http://{name}/"));
        for (variables, expected) in [
            (vec![], None),
            (vec![("HTTPS_PROXY", "")], None),
            (vec![("HTTPS_PROXY", " ")], None),
            (vec![("HTTPS_PROXY", "p:1")], p("p:1")),
            (vec![("HTTPS_PROXY", ""), ("https_proxy", "http://q:2")], p("q:2")),
            (vec![("HTTPS_PROXY", ""), ("ALL_PROXY", "http://r:3")], p("r:3")),
            (vec![("all_proxy", "http://r:3")], p("r:3")),
            (vec![("HTTP_PROXY", "http://s:4")], None),
            (vec![("HTTPS_PROXY", "p:1"), ("NO_PROXY", ""), ("no_proxy", "api.example")], None),
            (vec![("HTTPS_PROXY", "p:1"), ("no_proxy", "*")], None),
            (vec![("HTTPS_PROXY", "p:1"), ("NO_PROXY", "api.example:8443")], p("p:1")),
        ] {
            assert_eq!(way(&variables, to), expected, "{variables:?}");
        }
        let proxied = [("HTTPS_PROXY", "p:1"), ("NO_PROXY", "*")];
        for host in ["10.0.0.1", "[::1]:8443", "api.example"] {
            assert_eq!(way(&proxied, &format!("https://{host}/event")), None);
            assert_eq!(way(&proxied[..1], &format!("http://{host}/event")), None, "plain text");
        }
    }

    #[test]
    fn what_is_no_proxy_is_an_error_that_shows_no_password() {
        for (value, said) in [
            ("socks5://user:s3cret@p.example", "socks5://"),
            ("ftp://user:s3cret@p.example", "ftp://"),
            ("http://user:s3cret@", "not the URL"),
            ("user:s3cret@p p", "not the URL"),
        ] {
            let error = of(&[("https_proxy", value)]).unwrap_err().to_string();
            assert!(error.contains(said) && error.contains("`https_proxy`"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
        }
        let shown =
            format!("{:?}", of(&[("HTTPS_PROXY", "http://user:s3cret@p.example")]).unwrap());
        assert!(shown.contains("p.example") && !shown.contains("s3cret"), "{shown}");
    }
}
