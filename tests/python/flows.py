"""The ordinary flows of a program that uses the Python client `kubernetes`.

Run by the journey tests/tests/journeys/python_client.rs: `flows.py KUBECONFIG`. Ends with 0 when every flow went as it
does against a Kubernetes API server; a failed assertion names the flow.
"""

import base64
import json
import sys
import threading

from kubernetes import client, config, dynamic, watch
from kubernetes.client.exceptions import ApiException

BACKEND = {"group": "core.apoxy.dev", "version": "v1alpha2", "plural": "backends"}
# Seconds; no watch below waits for this long when all is well.
PATIENCE = 60


def refused(status, reason, call, *arguments, **named):
    """Calls, and expects a refusal; gives its Status object."""
    try:
        answer = call(*arguments, **named)
    except ApiException as error:
        body = json.loads(error.body)
        seen = (error.status, body["kind"], body["status"], body["reason"], body["code"])
        assert seen == (status, "Status", "Failure", reason, status), body
        return body
    raise AssertionError(f"{call.__name__} is refused with {status}; it gave {answer}")


def backend(name, ip, **metadata):
    return {
        "apiVersion": "core.apoxy.dev/v1alpha2",
        "kind": "Backend",
        "metadata": {"name": name, **metadata},
        "spec": {"endpoints": [{"ip": ip}]},
    }


def config_map(name, tier, **data):
    return client.V1ConfigMap(metadata=client.V1ObjectMeta(name=name, labels={"tier": tier}), data=data)


def core_objects(api):
    core = client.CoreV1Api(api)
    created = core.create_namespaced_config_map("default", config_map("app", "front", colour="red"))
    assert created.metadata.uid and created.metadata.creation_timestamp.tzinfo is not None
    conflict = refused(409, "AlreadyExists", core.create_namespaced_config_map, "default", config_map("app", "x"))
    assert conflict["details"]["name"] == "app" and conflict["details"]["kind"] == "configmaps", conflict
    missing = refused(404, "NotFound", core.read_namespaced_config_map, "none", "default")
    assert missing["message"] == 'configmaps "none" not found', missing

    # A dictionary is sent as a strategic merge patch, a list as a JSON patch.
    patched = core.patch_namespaced_config_map("app", "default", {"data": {"size": "1"}})
    assert patched.data == {"colour": "red", "size": "1"}, patched.data
    remove = [{"op": "remove", "path": "/data/size"}]
    assert core.patch_namespaced_config_map("app", "default", remove).data == {"colour": "red"}
    created.data = {"colour": "blue"}
    refused(409, "Conflict", core.replace_namespaced_config_map, "app", "default", created)
    fresh = core.read_namespaced_config_map("app", "default")
    fresh.data["colour"] = "blue"
    assert core.replace_namespaced_config_map("app", "default", fresh).data["colour"] == "blue"
    tried = core.patch_namespaced_config_map("app", "default", {"data": {"colour": "no"}}, dry_run="All")
    assert tried.data["colour"] == "no"
    assert core.read_namespaced_config_map("app", "default").data["colour"] == "blue"

    secret = client.V1Secret(metadata=client.V1ObjectMeta(generate_name="key-"), string_data={"a": "b"})
    secret = core.create_namespaced_secret("default", secret)
    assert base64.b64decode(secret.data["a"]) == b"b" and secret.metadata.name.startswith("key-")
    assert core.delete_namespaced_secret(secret.metadata.name, "default").status == "Success"


def lists(api):
    core = client.CoreV1Api(api)
    for at in range(10):
        core.create_namespaced_config_map("default", config_map(f"page-{at}", "odd" if at % 2 else "even"))
    names, token = [], None
    while True:
        page = core.list_namespaced_config_map("default", limit=4, _continue=token, label_selector="tier in (odd,even)")
        names += [item.metadata.name for item in page.items]
        token = page.metadata._continue
        if not token:
            break
    assert names == [f"page-{at}" for at in range(10)], names
    odd = core.list_config_map_for_all_namespaces(label_selector="tier=odd,tier!=even")
    assert len(odd.items) == 5
    one = core.list_namespaced_config_map("default", field_selector="metadata.name=page-3")
    assert [item.metadata.name for item in one.items] == ["page-3"]
    refused(400, "BadRequest", core.list_namespaced_config_map, "default", label_selector="a in b")

    core.delete_collection_namespaced_config_map("default", label_selector="tier=odd")
    left = core.list_namespaced_config_map("default", label_selector="tier in (odd,even)")
    assert [item.metadata.name for item in left.items] == [f"page-{at}" for at in (0, 2, 4, 6, 8)]
    core.delete_collection_namespaced_config_map("default", label_selector="tier=even")


def watches(api):
    core = client.CoreV1Api(api)
    start = core.list_namespaced_config_map("default").metadata.resource_version

    def write():
        core.create_namespaced_config_map("default", config_map("seen", "watched"))
        core.patch_namespaced_config_map("seen", "default", {"data": {"a": "b"}})
        core.delete_namespaced_config_map("seen", "default")

    writer = threading.Thread(target=write)
    writer.start()
    watcher, seen = watch.Watch(), []
    follow = {"namespace": "default", "resource_version": start, "timeout_seconds": PATIENCE}
    for event in watcher.stream(core.list_namespaced_config_map, **follow):
        seen.append((event["type"], event["object"].metadata.name))
        if event["type"] == "DELETED":
            watcher.stop()
    writer.join()
    assert seen == [("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "seen")], seen

    # With a time limit the stream ends by itself, and a later version leaves out what came before it.
    again = [
        event["type"]
        for event in watch.Watch().stream(
            core.list_namespaced_config_map, "default", resource_version=start, timeout_seconds=1
        )
    ]
    assert again[:3] == ["ADDED", "MODIFIED", "DELETED"], again


def custom_objects(api):
    custom = client.CustomObjectsApi(api)
    place = {**BACKEND, "namespace": "default"}
    created = custom.create_namespaced_custom_object(body=backend("b", "192.0.2.1"), **place)
    assert created["metadata"]["generation"] == 1
    merged = custom.patch_namespaced_custom_object(name="b", body={"spec": {"endpoints": [{"ip": "192.0.2.2"}]}}, **place)
    assert merged["spec"]["endpoints"] == [{"ip": "192.0.2.2"}] and merged["metadata"]["generation"] == 2
    same = custom.patch_namespaced_custom_object(name="b", body={"metadata": {"labels": {"a": "b"}}}, **place)
    assert same["metadata"]["generation"] == 2, "a label is no new generation"
    refused(409, "Conflict", custom.replace_namespaced_custom_object, name="b", body=created, **place)
    wrong = backend("c", "nonsense")
    invalid = refused(422, "Invalid", custom.create_namespaced_custom_object, body=wrong, **place)
    assert invalid["details"]["causes"][0]["field"] == "spec.endpoints[0].ip", invalid
    seen = [
        (event["type"], event["object"]["metadata"]["name"])
        for event in watch.Watch().stream(custom.list_namespaced_custom_object, timeout_seconds=1, **place)
    ]
    assert seen[0] == ("ADDED", "b"), seen
    assert custom.get_namespaced_custom_object_status(name="b", **place)["metadata"]["uid"] == created["metadata"]["uid"]
    assert custom.list_cluster_custom_object(**BACKEND)["kind"] == "BackendList"
    custom.delete_namespaced_custom_object(name="b", **place)
    refused(404, "NotFound", custom.get_namespaced_custom_object, name="b", **place)


def dynamic_client(api):
    finder = dynamic.DynamicClient(api)
    backends = finder.resources.get(api_version="core.apoxy.dev/v1alpha2", kind="Backend")
    merge = "application/merge-patch+json"
    created = backends.create(body=backend("d", "192.0.2.1"), namespace="default")
    assert created.kind == "Backend" and created.spec.endpoints[0].ip == "192.0.2.1"
    try:
        backends.patch(body={"metadata": {"name": "d"}}, name="d", namespace="default")
        raise AssertionError("a strategic merge patch of a custom kind is refused")
    except dynamic.exceptions.DynamicApiError as error:
        assert error.status == 415, error
    labelled = backends.patch(
        body={"metadata": {"labels": {"a": "b"}}}, name="d", namespace="default", content_type=merge
    )
    assert labelled.metadata.labels.a == "b"
    replaced = backends.patch(
        body=[{"op": "replace", "path": "/spec/endpoints/0/ip", "value": "192.0.2.3"}],
        name="d",
        namespace="default",
        content_type="application/json-patch+json",
    )
    assert replaced.spec.endpoints[0].ip == "192.0.2.3"

    apply = {"name": "s", "namespace": "default", "field_manager": "flows"}
    first = backends.server_side_apply(body=backend("s", "192.0.2.1"), **apply)
    assert [entry.manager for entry in first.metadata.managedFields] == ["flows"]
    other = {**apply, "field_manager": "other"}
    try:
        backends.server_side_apply(body=backend("s", "192.0.2.9"), **other)
        raise AssertionError("another manager's field is in conflict")
    except dynamic.exceptions.ConflictError as error:
        assert "flows" in error.summary(), error.summary()
    forced = backends.server_side_apply(body=backend("s", "192.0.2.9"), force_conflicts=True, **other)
    assert forced.spec.endpoints[0].ip == "192.0.2.9"

    assert [item.metadata.name for item in backends.get(namespace="default", label_selector="a=b").items] == ["d"]
    told = [event["object"].metadata.name for event in backends.watch(namespace="default", timeout=1)]
    assert set(told) == {"d", "s"}, told
    nodes = finder.resources.get(api_version="core.apoxy.dev/v1alpha", kind="TunnelNode")
    assert not nodes.namespaced
    for name in ("d", "s"):
        backends.delete(name=name, namespace="default")
    try:
        backends.get(name="d", namespace="default")
        raise AssertionError("what was deleted is not found")
    except dynamic.exceptions.NotFoundError as error:
        assert error.reason == "Not Found", error.reason


def bearer_token(api):
    """A ServiceAccount that may only read, by a token instead of a certificate."""
    core, rights = client.CoreV1Api(api), client.RbacAuthorizationV1Api(api)
    core.create_namespaced_service_account("default", client.V1ServiceAccount(metadata={"name": "reader"}))
    rights.create_cluster_role_binding(
        client.V1ClusterRoleBinding(
            metadata={"name": "reader"},
            role_ref={"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "viewer"},
            subjects=[{"kind": "ServiceAccount", "name": "reader", "namespace": "default"}],
        )
    )
    request = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=600))
    token = core.create_namespaced_service_account_token("reader", "default", request).status.token

    def connection(secret):
        own = client.Configuration()
        own.host, own.ssl_ca_cert = api.configuration.host, api.configuration.ssl_ca_cert
        own.api_key, own.api_key_prefix = {"authorization": secret}, {"authorization": "Bearer"}
        return client.CoreV1Api(client.ApiClient(own))

    reader = connection(token)
    reader.list_namespaced_config_map("default")
    refused(403, "Forbidden", reader.create_namespaced_config_map, "default", config_map("x", "y"))
    refused(403, "Forbidden", reader.list_namespaced_secret, "default")
    refused(401, "Unauthorized", connection(token[:-2]).list_namespaced_config_map, "default")
    core.delete_namespaced_service_account("reader", "default")
    refused(401, "Unauthorized", reader.list_namespaced_config_map, "default")
    rights.delete_cluster_role_binding("reader")


def about(api):
    assert client.VersionApi(api).get_code().git_version.startswith("v")
    groups = [group.name for group in client.ApisApi(api).get_api_versions().groups]
    assert "gateway.networking.k8s.io" in groups, groups
    lease = client.V1Lease(metadata={"name": "l"}, spec=client.V1LeaseSpec(holder_identity="a"))
    leases = client.CoordinationV1Api(api)
    stored = leases.create_namespaced_lease("default", lease)
    stored.spec.holder_identity = "b"
    leases.replace_namespaced_lease("l", "default", stored)
    refused(409, "Conflict", leases.replace_namespaced_lease, "l", "default", stored)


def main():
    api = config.new_client_from_config(config_file=sys.argv[1])
    for flow in (about, core_objects, lists, watches, custom_objects, dynamic_client, bearer_token):
        flow(api)
        print(f"{flow.__name__}: as in a cluster", flush=True)


main()
