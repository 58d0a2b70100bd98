//! `underpass auth`: who the relay thinks we are, and what it lets us do.

use clap::Subcommand;
use http::Method;
use serde_json::json;
use underpass_shared::resource::kind::Scope;

use super::{
    GlobalArgs, Outcome,
    fields::{join, list, scalar},
    kinds::{KindWord, group_of},
    print::{Console, columns, text},
};

/// What `underpass auth` can do.
#[derive(Debug, Subcommand)]
pub enum AuthCommand {
    /// Ask whether something is allowed: prints yes or no, and exits with 1 for no
    #[command(after_help = "Examples:\n  \
        underpass auth can-i create httproutes\n  \
        underpass auth can-i delete gateway/default -n shop")]
    CanI {
        /// get, list, watch, create, update, patch, delete or *
        verb: String,
        /// A kind, or KIND/NAME
        kind: KindWord,
        name: Option<String>,
        /// Of the kind, such as status
        #[arg(long, value_name = "NAME")]
        subresource: Option<String>,
        /// In all namespaces
        #[arg(short = 'A', long)]
        all_namespaces: bool,
        /// Print nothing
        #[arg(short, long)]
        quiet: bool,
    },
    /// Show who the relay thinks you are
    #[command(after_help = "Example:\n  underpass auth whoami")]
    Whoami,
}

pub(crate) async fn run(
    global: &GlobalArgs,
    command: AuthCommand,
    console: &mut Console<'_>,
) -> anyhow::Result<Outcome> {
    let (mut client, namespace) = global.connect()?;
    let AuthCommand::CanI { verb, kind: word, name, subresource, all_namespaces, quiet } = command else {
        let path = client.in_project("/apis/authentication.k8s.io/v1/selfsubjectreviews");
        let body = json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"});
        let answer = client.send(Method::POST, &path, Some(&body)).await?;
        let user = &answer["status"]["userInfo"];
        let mut rows = vec![vec!["Username".to_owned(), scalar(&user["username"])]];
        if !list(&user["groups"]).is_empty() {
            rows.push(vec!["Groups".to_owned(), format!("[{}]", join(&user["groups"], scalar))]);
        }
        for (key, values) in user["extra"].as_object().into_iter().flatten() {
            rows.push(vec![format!("Extra: {key}"), format!("[{}]", join(values, scalar))]);
        }
        write!(console.out, "{}", columns(&["ATTRIBUTE", "VALUE"], &rows))?;
        return Ok(Outcome::Done);
    };
    let info = word.kind.info();
    let namespace = if info.scope == Scope::Namespaced && !all_namespaces { namespace } else { String::new() };
    let body = json!({"apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview",
        "spec": {"resourceAttributes": {
            "verb": verb, "group": group_of(word.api_version), "resource": info.plural,
            "name": name.or(word.name).unwrap_or_default(), "namespace": namespace,
            "subresource": subresource.unwrap_or_default()}}});
    let path = client.in_project("/apis/authorization.k8s.io/v1/selfsubjectaccessreviews");
    let answer = client.send(Method::POST, &path, Some(&body)).await?;
    let is_allowed = answer["status"]["allowed"] == true;
    if !quiet {
        let reason = match text(&answer["status"]["reason"]) {
            "" => String::new(),
            reason => format!(" - {reason}"),
        };
        console.say(&if is_allowed { "yes".to_owned() } else { format!("no{reason}") })?;
    }
    Ok(if is_allowed { Outcome::Done } else { Outcome::Failed })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::testing::Relay;

    #[tokio::test]
    async fn what_is_allowed_is_asked_of_the_relay() {
        let relay = Relay::start().await;
        let path = "/projects/acme/apis/authorization.k8s.io/v1/selfsubjectaccessreviews";
        relay.answer("POST", path, &json!({"status": {"allowed": true}}));
        assert_eq!(relay.ok("auth can-i create hr/web -n shop --project acme").await, "yes\n");
        assert_eq!(
            relay.last_body()["spec"]["resourceAttributes"],
            json!({"verb": "create", "group": "gateway.networking.k8s.io", "resource": "httproutes", "name": "web",
                "namespace": "shop", "subresource": ""})
        );
        relay.answer("POST", path, &json!({"status": {"allowed": false, "reason": "a viewer"}}));
        let run = relay.run("auth can-i delete tn --project acme", "").await;
        assert_eq!((run.outcome, run.out.as_str(), run.err.as_str()), (Outcome::Failed, "no - a viewer\n", ""));
        assert_eq!(relay.last_body()["spec"]["resourceAttributes"]["namespace"], "");
    }

    #[tokio::test]
    async fn who_we_are_is_asked_of_the_relay() {
        let relay = Relay::start().await;
        relay.answer(
            "POST",
            "/apis/authentication.k8s.io/v1/selfsubjectreviews",
            &json!({"status": {"userInfo": {"username": "admin", "groups": ["a", "b"]}}}),
        );
        assert_eq!(relay.ok("auth whoami").await, "ATTRIBUTE   VALUE\nUsername    admin\nGroups      [a,b]\n");
    }
}
