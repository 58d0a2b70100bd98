//! An agent's proxies and clients that we did not write: curl and PySocks.

use std::{fs, os::unix::fs::PermissionsExt, process::Stdio};

use tokio::{net::TcpListener, process::Command};
use underpass_tests::{
    eventually::{PATIENCE, eventually, within},
    python,
    socks::{Nodes, SUCCEEDED, replies},
};

/// Runs curl to its end: whether it went well, and what it printed on both outputs.
async fn curl(arguments: &[&str]) -> (bool, String) {
    let mut command = Command::new("curl");
    command.args(["-sS", "--noproxy", ""]).args(arguments).stdin(Stdio::null()).kill_on_drop(true);
    let output = within(PATIENCE, "curl ends", command.output()).await;
    let output = output.unwrap_or_else(|error| panic!("curl: {error}: install the package curl"));
    let text = [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    (output.status.success(), text)
}

#[tokio::test]
async fn curl_goes_by_socks_and_by_connect() {
    let nodes = Nodes::open().await;
    let (proxy, port) = (nodes.proxy.to_string(), nodes.upstream.port());
    nodes.office_admits("[{node: laptop}]").await;
    nodes.laptop_may_leave(true).await;
    replies(nodes.proxy, "127.0.0.1", port, SUCCEEDED).await;
    replies(nodes.proxy, "office.tun.internal", port, SUCCEEDED).await;
    let (node, outside) = (format!("http://office.tun.internal:{port}/name"), format!("http://127.0.0.1:{port}/name"));
    let overlay = format!("http://[{}]:{port}/name", nodes.at_office.address);
    for (flags, url) in [
        (&["--socks5-hostname", &proxy][..], &node),
        (&["--socks5-hostname", &proxy], &outside),
        (&["--socks5", &proxy], &outside),
        (&["--socks5", &proxy], &overlay),
        (&["--proxytunnel", "-x", &proxy], &node),
        (&["--proxytunnel", "-x", &proxy], &overlay),
    ] {
        assert_eq!(curl(&[flags, &[url]].concat()).await, (true, "office".to_owned()), "{flags:?} {url}");
    }
    let (_, told) = curl(&["--socks5-hostname", &proxy, "http://169.254.169.254/"]).await;
    assert!(told.contains("(2)"), "not allowed: {told}");
    let (_, told) = curl(&["--proxytunnel", "-v", "-x", &proxy, "http://169.254.169.254/"]).await;
    assert!(told.contains("HTTP/1.1 403 Forbidden"), "{told}");
    let (_, told) = curl(&["-x", &proxy, &outside]).await;
    assert!(told.contains("only CONNECT is served here"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn pysocks_proves_who_it_is_and_is_told_why_not() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users");
    fs::write(&users, "# the programs of this host\nme:secret:colon\n").unwrap();
    fs::set_permissions(&users, fs::Permissions::from_mode(0o600)).unwrap();
    let nodes = Nodes::open_with(&["--socks-user-file", users.to_str().unwrap()]).await;
    let (proxy, port) = (nodes.proxy.to_string(), nodes.upstream.port().to_string());
    nodes.laptop_may_leave(true).await;
    let url = format!("http://127.0.0.1:{port}/name");
    let login = ["-U", "me:secret:colon"];
    eventually("curl gets through", async || {
        let (good, text) = curl(&[&login[..], &["--socks5-hostname", &proxy, &url]].concat()).await;
        if good && text == "office" { Ok(()) } else { Err(text) }
    })
    .await;
    assert!(!curl(&["--socks5-hostname", &proxy, &url]).await.0, "without a password");
    let through = curl(&[&login[..], &["--proxytunnel", "-x", &proxy, &url]].concat()).await;
    assert_eq!(through, (true, "office".to_owned()));

    let free = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port().to_string();
    let proxy = nodes.proxy.port().to_string();
    let arguments = [&*proxy, "127.0.0.1", &port, &free, "me", "secret:colon"];
    let text = python::run("socks_cases.py", "socks-requirements.txt", &arguments).await;
    for case in ["SOCKS5 ok", "HTTP ok", "address ok", "authentication ok", "refusals ok"] {
        assert!(text.contains(case), "{case}: {text}");
    }
}
