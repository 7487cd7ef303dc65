//! Which credentials the client uses. `auto` follows what the environment offers, in the order of Alibaba's
//! own clients (credentials-go `default.go`): key pair, OIDC (RRSA), file, ECS role when one is named; with
//! nothing of these the requests are anonymous.

use std::path::PathBuf;

use super::{Environment, Error, Flags, raw::Raw};
use crate::oss::{CredentialSource, Credentials, EcsRamRole, Oidc, Secret};

/// Where the connector and Alibaba's command line keep the credentials of a user.
const FILE_IN_HOME: &str = ".alibabacloud/credentials";
/// Name of the credential that a unit of systemd gives (`LoadCredential=`, systemd.exec(5)).
const OF_UNIT: &str = "ossc";

/// Chooses the source.
pub(super) fn resolve(flags: &Flags, env: &Environment, raw: &Raw) -> Result<CredentialSource, Error> {
    let wanted = flags.credentials.as_deref().or(raw.credentials.as_deref()).unwrap_or("auto");
    let named_file = flags
        .credentials_file
        .clone()
        .or_else(|| env.get("ALIBABA_CLOUD_CREDENTIALS_FILE").map(PathBuf::from))
        .or_else(|| raw.credentials_file.clone());
    let ecs_role = flags
        .ecs_role
        .clone()
        .or_else(|| env.get("ALIBABA_CLOUD_ECS_METADATA").map(str::to_owned))
        .or_else(|| raw.ecs_role.clone());
    match wanted {
        "anonymous" => Ok(CredentialSource::Anonymous),
        "env" => key_pair(env)?.map(CredentialSource::Static).ok_or(Error::Missing {
            what: "access key",
            flag: "--credentials with another source",
            env: "OSS_ACCESS_KEY_ID and OSS_ACCESS_KEY_SECRET",
            key: "credentials",
        }),
        "file" => Ok(CredentialSource::File(file(named_file, env)?)),
        "ecs" => Ok(ecs(ecs_role, env)),
        "oidc" => oidc(env).map(CredentialSource::Oidc).ok_or(Error::Missing {
            what: "OIDC role",
            flag: "--credentials with another source",
            env: "ALIBABA_CLOUD_ROLE_ARN, ALIBABA_CLOUD_OIDC_PROVIDER_ARN and ALIBABA_CLOUD_OIDC_TOKEN_FILE",
            key: "credentials",
        }),
        "auto" => {
            // Set but empty asks for anonymous access, as with the connector.
            if env.raw("OSS_ACCESS_KEY_ID").is_some_and(str::is_empty) {
                return Ok(CredentialSource::Anonymous);
            }
            if let Some(pair) = key_pair(env)? {
                return Ok(CredentialSource::Static(pair));
            }
            if let Some(role) = oidc(env) {
                return Ok(CredentialSource::Oidc(role));
            }
            if named_file.is_some() {
                return Ok(CredentialSource::File(file(named_file, env)?));
            }
            if let Some(path) = usual_files(env).find(|path| path.is_file()) {
                return Ok(CredentialSource::File(path));
            }
            Ok(if ecs_role.is_some() { ecs(ecs_role, env) } else { CredentialSource::Anonymous })
        }
        other => Err(Error::Value {
            name: "credentials",
            value: other.to_owned(),
            wanted: "write auto, env, file, ecs, oidc or anonymous".to_owned(),
        }),
    }
}

fn key_pair(env: &Environment) -> Result<Option<Credentials>, Error> {
    for [id, secret, token] in [
        ["OSS_ACCESS_KEY_ID", "OSS_ACCESS_KEY_SECRET", "OSS_SESSION_TOKEN"],
        ["ALIBABA_CLOUD_ACCESS_KEY_ID", "ALIBABA_CLOUD_ACCESS_KEY_SECRET", "ALIBABA_CLOUD_SECURITY_TOKEN"],
    ] {
        match (env.get(id), env.get(secret)) {
            (Some(key), Some(value)) => {
                return Ok(Some(Credentials {
                    access_key_id: key.to_owned(),
                    access_key_secret: Secret::new(value),
                    security_token: env.get(token).map(Secret::new),
                    expiration: None,
                }));
            }
            (Some(_), None) => return Err(Error::HalfKey { given: id, missing: secret }),
            (None, Some(_)) => return Err(Error::HalfKey { given: secret, missing: id }),
            (None, None) => {}
        }
    }
    Ok(None)
}

fn file(named: Option<PathBuf>, env: &Environment) -> Result<PathBuf, Error> {
    let usual = || usual_files(env).find(|path| path.is_file()).or_else(|| usual_files(env).last());
    named.or_else(usual).ok_or(Error::Missing {
        what: "credentials file",
        flag: "--credentials-file",
        env: "ALIBABA_CLOUD_CREDENTIALS_FILE",
        key: "credentialsFile",
    })
}

/// Where a file is looked for that nobody named.
fn usual_files(env: &Environment) -> impl Iterator<Item = PathBuf> {
    let below = |variable, name| env.get(variable).map(|directory| PathBuf::from(directory).join(name));
    [below("CREDENTIALS_DIRECTORY", OF_UNIT), below("HOME", FILE_IN_HOME)].into_iter().flatten()
}

fn ecs(role: Option<String>, env: &Environment) -> CredentialSource {
    let allow_v1 = !env.get("ALIBABA_CLOUD_IMDSV1_DISABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    let mut source = EcsRamRole { role, allow_v1, ..EcsRamRole::default() };
    if let Some(url) = env.get("OSSC_ECS_METADATA_ENDPOINT") {
        url.clone_into(&mut source.base_url);
    }
    CredentialSource::EcsRamRole(source)
}

fn oidc(env: &Environment) -> Option<Oidc> {
    let (Some(role_arn), Some(provider_arn), Some(token_file)) = (
        env.get("ALIBABA_CLOUD_ROLE_ARN"),
        env.get("ALIBABA_CLOUD_OIDC_PROVIDER_ARN"),
        env.get("ALIBABA_CLOUD_OIDC_TOKEN_FILE"),
    ) else {
        return None;
    };
    let mut role = Oidc {
        role_arn: role_arn.to_owned(),
        provider_arn: provider_arn.to_owned(),
        token_file: token_file.into(),
        ..Oidc::default()
    };
    if let Some(name) = env.get("ALIBABA_CLOUD_ROLE_SESSION_NAME") {
        name.clone_into(&mut role.session_name);
    }
    let vpc = env.get("ALIBABA_CLOUD_VPC_ENDPOINT_ENABLED").is_some_and(|v| v.eq_ignore_ascii_case("true"));
    match (env.get("OSSC_STS_ENDPOINT"), env.get("ALIBABA_CLOUD_STS_REGION")) {
        (Some(url), _) => url.clone_into(&mut role.sts_url),
        (None, Some(region)) if vpc => role.sts_url = format!("https://sts-vpc.{region}.aliyuncs.com"),
        (None, Some(region)) => role.sts_url = format!("https://sts.{region}.aliyuncs.com"),
        (None, None) => {}
    }
    Some(role)
}
