//! `underpass api-resources`: the kinds, their short names and versions.

use clap::Args;
use underpass_shared::resource::kind::{KINDS, Scope};

use super::{
    Outcome,
    kinds::{full_kind, group_of},
    print::{Console, columns},
};

/// Which kinds, and how they are shown.
#[derive(Debug, Clone, Default, Args)]
pub struct ResourcesArgs {
    /// Only kinds of this group
    #[arg(long, value_name = "GROUP")]
    pub api_group: Option<String>,
    /// Only those with namespaces, or only those without
    #[arg(long)]
    pub namespaced: Option<bool>,
    /// `name`: names only
    #[arg(short, long, value_parser = ["name"])]
    pub output: Option<String>,
    /// Leave out the titles of the columns
    #[arg(long)]
    pub no_headers: bool,
}

/// Prints a line for each kind and group: a kind of two groups is one set of objects with two names.
pub(crate) fn run(args: &ResourcesArgs, console: &mut Console<'_>) -> anyhow::Result<Outcome> {
    let mut rows = Vec::new();
    for info in KINDS {
        let is_namespaced = info.scope == Scope::Namespaced;
        let mut groups: Vec<&str> = Vec::new();
        for api_version in info.api_versions {
            let group = group_of(api_version);
            let is_wanted = args.api_group.as_deref().is_none_or(|wanted| wanted == group)
                && args.namespaced.is_none_or(|wanted| wanted == is_namespaced);
            if !is_wanted || groups.contains(&group) {
                continue;
            }
            groups.push(group);
            if args.output.is_some() {
                console.say(&full_kind(info, api_version).replacen(info.singular, info.plural, 1))?;
                continue;
            }
            rows.push(
                [info.plural, &info.short_names.join(","), api_version, &is_namespaced.to_string(), info.name]
                    .map(str::to_owned)
                    .to_vec(),
            );
        }
    }
    if args.output.is_none() {
        let text = columns(&["NAME", "SHORTNAMES", "APIVERSION", "NAMESPACED", "KIND"], &rows);
        let text = if args.no_headers { text.split_once('\n').map_or("", |(_, rest)| rest) } else { &text };
        write!(console.out, "{text}")?;
    }
    Ok(Outcome::Done)
}

#[cfg(test)]
mod tests {
    use crate::cli::testing::Relay;

    #[tokio::test]
    async fn kinds_are_listed_by_group() {
        let relay = Relay::start().await;
        let all = relay.ok("api-resources").await;
        let line = all.lines().find(|line| line.starts_with("gateways ")).unwrap();
        assert_eq!(
            line.split_whitespace().collect::<Vec<_>>(),
            ["gateways", "gtw", "gateway.networking.k8s.io/v1", "true", "Gateway"]
        );
        let names = relay.ok("api-resources --api-group gateway.apoxy.dev --namespaced=false -o name").await;
        assert_eq!(names, "gatewayclasses.gateway.apoxy.dev\n");
        assert!(relay.requests().is_empty());
    }
}
