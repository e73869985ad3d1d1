//! Features of a profile that the AWS CLI has and this build lacks, reported before anything is fetched.

use std::borrow::Cow;

#[allow(deprecated)] // what `load` takes
use aws_config::profile::profile_file::ProfileFiles;
use aws_config::profile::{Profile, ProfileSet, load};
use aws_types::os_shim_internal::{Env, Fs};

/// Names a feature of the profile in force that is not built in, with a replacement. Other errors in it are
/// found where it is used.
#[allow(deprecated)]
pub(super) async fn not_built_in(named: Option<&str>) -> Option<String> {
    let set = |name| std::env::var(name).is_ok_and(|value| !value.trim().is_empty());
    if set("AWS_ACCESS_KEY_ID") && set("AWS_SECRET_ACCESS_KEY") {
        // They come first, whatever the profile.
        return None;
    }
    let named = named.map(|name| Cow::Owned(name.to_owned()));
    let profiles = load(&Fs::real(), &Env::real(), &ProfileFiles::default(), named).await.ok()?;
    unsupported(&profiles)
}

fn unsupported(profiles: &ProfileSet) -> Option<String> {
    let mut seen = Vec::new();
    let mut name = profiles.selected_profile();
    loop {
        let profile = profiles.get_profile(name)?;
        if seen.contains(&name) {
            return None;
        }
        // In the order in which the library looks at them.
        let has = |key: &str| profile.get(key).is_some();
        if !seen.is_empty() && has("aws_access_key_id") {
            return None;
        }
        seen.push(name);
        let chained = has("role_arn") && !has("web_identity_token_file");
        match profile.get("source_profile").filter(|next| chained && *next != name) {
            Some(next) => name = next,
            None if has("credential_source") || has("web_identity_token_file") => return None,
            None => return of_base(profile),
        }
    }
}

fn of_base(profile: &Profile) -> Option<String> {
    let (key, what) = [
        ("sso_session", "IAM Identity Center"),
        ("sso_start_url", "IAM Identity Center"),
        ("sso_account_id", "IAM Identity Center"),
        ("login_session", "a session of `aws login`"),
    ]
    .into_iter()
    .find(|(key, _)| profile.get(key).is_some())?;
    let name = profile.name();
    Some(format!(
        "the profile `{name}` has `{key}`: {what} is not built in; add a profile with `credential_process = aws configure export-credentials --profile {name}`, and name that one"
    ))
}

#[cfg(test)]
#[allow(deprecated)]
mod tests {
    use aws_config::profile::profile_file::ProfileFileKind;

    use super::*;

    async fn of(selected: &str, text: &str) -> Option<String> {
        let files = ProfileFiles::builder().with_contents(ProfileFileKind::Config, text).build();
        let selected = Some(Cow::Owned(selected.to_owned()));
        let profiles = load(&Fs::from_slice(&[]), &Env::from_slice(&[]), &files, selected).await;
        unsupported(&profiles.unwrap())
    }

    #[tokio::test]
    async fn what_is_not_built_in_is_named_with_what_to_write() {
        let text = "
            [default]
            region = eu-west-1
            [profile sso]
            sso_session = corp
            sso_account_id = 111122223333
            sso_role_name = publisher
            [sso-session corp]
            sso_region = eu-west-1
            sso_start_url = https://corp.awsapps.com/start
            [profile old]
            sso_start_url = https://corp.awsapps.com/start
            [profile login]
            login_session = arn:aws:iam::111122223333:user/a
            [profile role]
            role_arn = arn:aws:iam::111122223333:role/publisher
            source_profile = sso
            [profile keys]
            aws_access_key_id = AKID
            aws_secret_access_key = secret
            sso_session = corp
            [profile role-of-keys]
            role_arn = arn:aws:iam::111122223333:role/publisher
            source_profile = keys
            [profile instance]
            role_arn = arn:aws:iam::111122223333:role/publisher
            credential_source = Ec2InstanceMetadata
            [profile process]
            credential_process = aws configure export-credentials --profile sso
            [profile circle]
            role_arn = arn:aws:iam::111122223333:role/publisher
            source_profile = circle2
            [profile circle2]
            role_arn = arn:aws:iam::111122223333:role/publisher
            source_profile = circle
        "
        .replace("            ", "");
        for (name, key) in [
            ("sso", "`sso_session`"),
            ("old", "`sso_start_url`"),
            ("login", "`login_session`"),
            ("role", "`sso_session`"),
        ] {
            let said = of(name, &text).await.unwrap();
            assert!(said.contains(key) && said.contains("is not built in"), "{said}");
            assert!(said.contains("credential_process = aws configure"), "{said}");
        }
        for name in ["default", "role-of-keys", "instance", "process", "circle", "nobody"] {
            assert_eq!(of(name, &text).await, None, "{name}");
        }
    }
}
