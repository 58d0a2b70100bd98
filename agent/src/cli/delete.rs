//! `underpass delete`: by kind and name, or everything that files describe.

use http::Method;
use underpass_shared::resource::kind::KindInfo;

use super::{
    GlobalArgs, Outcome, apply,
    client::{Client, ClientError},
    files::FileArgs,
    kinds::{KindWord, group_of},
    manifest::Manifest,
    print::Console,
    status::ApiError,
};

/// One object to delete.
struct Target {
    info: &'static KindInfo,
    api_version: &'static str,
    namespace: String,
    name: String,
}

/// `underpass delete KIND NAME...`.
pub(crate) async fn by_name(
    global: &GlobalArgs,
    word: &KindWord,
    names: &[String],
    ignore_not_found: bool,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let info = word.kind.info();
    let names = word.with(names);
    if names.is_empty() {
        anyhow::bail!("which {}? give its name: underpass delete {} NAME", info.singular, info.singular);
    }
    let (mut client, namespace) = global.connect()?;
    let api_version = info.api_versions[0];
    let targets = names.into_iter().map(|name| Target { info, api_version, namespace: namespace.clone(), name });
    delete_all(&mut client, targets.collect(), ignore_not_found, console).await
}

/// `underpass delete -f`: routes before gateways before nodes, the reverse of `apply`.
pub(crate) async fn by_file(
    global: &GlobalArgs,
    args: &FileArgs,
    ignore_not_found: bool,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let Some(mut manifests) = apply::load(global, args, console) else { return Ok(Outcome::Failed) };
    manifests.sort_by_key(|manifest| std::cmp::Reverse(Manifest::rank(manifest)));
    let (mut client, namespace) = global.connect()?;
    let targets = manifests.into_iter().map(|manifest| Target {
        info: manifest.info,
        api_version: manifest.api_version,
        namespace: manifest.namespace.unwrap_or_else(|| namespace.clone()),
        name: manifest.name,
    });
    delete_all(&mut client, targets.collect(), ignore_not_found, console).await
}

async fn delete_all(
    client: &mut Client,
    targets: Vec<Target>,
    ignore_not_found: bool,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let mut errors = Vec::new();
    for Target { info, api_version, namespace, name } in targets {
        let path = client.path(info, api_version, Some(&namespace), Some(&name));
        let result = client.send(Method::DELETE, &path, None).await;
        console.warn(&client.take_warnings())?;
        match result {
            Ok(_) => console.say(&format!("{}.{} \"{name}\" deleted", info.singular, group_of(api_version)))?,
            Err(error) if ignore_not_found && error.as_api().is_some_and(ApiError::is_not_found) => {}
            Err(ClientError::Api(error)) => errors.push(error.to_string()),
            Err(error) => return Err(error.into()),
        }
    }
    errors.iter().for_each(|error| console.complain(error));
    Ok(if errors.is_empty() { Outcome::Done } else { Outcome::Failed })
}

#[cfg(test)]
mod tests {
    use crate::cli::{Outcome, testing::Relay};

    const FILE: &str = "apiVersion: core.apoxy.dev/v1alpha\nkind: TunnelNode\nmetadata: {name: office}\n---\n\
                        apiVersion: gateway.apoxy.dev/v1\nkind: HTTPRoute\nmetadata: {name: web, namespace: shop}\n";

    #[tokio::test]
    async fn objects_are_deleted_by_name_and_by_file() {
        let relay = Relay::start().await;
        relay.run("apply -f -", FILE).await;
        assert_eq!(relay.ok("delete tunnel/office").await, "tunnelnode.core.apoxy.dev \"office\" deleted\n");
        relay.run("apply -f -", FILE).await;
        let run = relay.run("delete -f -", FILE).await;
        assert_eq!(
            (run.outcome, run.out.as_str()),
            (
                Outcome::Done,
                "httproute.gateway.apoxy.dev \"web\" deleted\ntunnelnode.core.apoxy.dev \"office\" deleted\n"
            )
        );
        assert!(relay.object("/apis/core.apoxy.dev/v1alpha/tunnelnodes/office").is_none());
    }

    #[tokio::test]
    async fn what_is_not_there_is_an_error_unless_told_otherwise() {
        let relay = Relay::start().await;
        relay.run("apply -f -", FILE).await;
        let run = relay.run("delete tn nobody office", "").await;
        assert_eq!(run.outcome, Outcome::Failed);
        assert_eq!(run.out, "tunnelnode.core.apoxy.dev \"office\" deleted\n");
        assert_eq!(run.err, "error: tunnelnodes \"nobody\" not found\n");
        let run = relay.run("delete tn nobody --ignore-not-found", "").await;
        assert_eq!((run.outcome, run.err.as_str()), (Outcome::Done, ""));
        assert!(relay.run("delete tn", "").await.err.contains("underpass delete tunnelnode NAME"));
    }
}
