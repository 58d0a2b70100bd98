//! What the definitions of our own and the core kinds take, and what they refuse and why.

use serde_json::{Value, json};
use underpass_shared::resource::kind::{KINDS, Kind, Scope};

use super::{Form, Node, of};

/// An object of `kind` with the fields of `yaml` beside its metadata.
fn object(kind: Kind, yaml: &str) -> Value {
    let info = kind.info();
    let mut object: Value = serde_saphyr::from_str(yaml).unwrap_or_else(|error| panic!("{yaml}: {error}"));
    let mut metadata = json!({"name": "it"});
    if info.scope == Scope::Namespaced {
        metadata["namespace"] = json!("default");
    }
    object["apiVersion"] = json!(info.api_versions[0]);
    object["kind"] = json!(info.name);
    object["metadata"] = metadata;
    of(kind).default(&mut object);
    object
}

/// `path: message` of each problem, unknown fields first.
fn problems(kind: Kind, object: &Value, old: Option<&Value>) -> Vec<String> {
    let unknown = of(kind).unknown(object).into_iter();
    let problems = unknown.chain(of(kind).validate(object, old));
    problems.map(|problem| format!("{}: {}", problem.path, problem.message)).collect()
}

fn taken(kind: Kind, yaml: &str) {
    let object = object(kind, yaml);
    assert_eq!(problems(kind, &object, None), [""; 0], "{kind:?}\n{yaml}");
    assert_eq!(problems(kind, &object, Some(&object)), [""; 0], "{kind:?} once more\n{yaml}");
    let mut again = object.clone();
    of(kind).default(&mut again);
    assert_eq!(again, object, "defaulting twice is defaulting once");
}

/// One problem, which says each of `words`.
fn refused(kind: Kind, yaml: &str, words: &[&str]) {
    let found = problems(kind, &object(kind, yaml), None);
    let [problem] = &found[..] else { panic!("not one problem but {found:#?}\n{yaml}") };
    assert!(words.iter().all(|word| problem.contains(word)), "{problem} says not all of {words:?}");
}

/// `after` is taken as a new object and refused in place of `before`.
fn fixed(kind: Kind, before: &str, after: &str, words: &[&str]) {
    let (before, after) = (object(kind, before), object(kind, after));
    assert_eq!(problems(kind, &after, None), [""; 0], "{after}");
    let found = problems(kind, &after, Some(&before));
    let [problem, ..] = &found[..] else { panic!("{after} is taken in place of {before}") };
    assert!(words.iter().all(|word| problem.contains(word)), "{problem} says not all of {words:?}");
}

fn defaulted(kind: Kind, yaml: &str, pointer: &str, want: &Value) {
    let object = object(kind, yaml);
    assert_eq!(object.pointer(pointer), Some(want), "{object}");
}

#[test]
fn the_seeds_manifests_of_these_kinds_are_taken() {
    taken(Kind::Backend, "spec:\n  endpoints:\n  - fqdn: api.internal.example.com");
    taken(Kind::Backend, "spec:\n  endpoints:\n  - fqdn: api.internal.example.com\n  protocol: h2");
    taken(Kind::TunnelNode, "spec:\n  egressGateway:\n    enabled: true");
    taken(
        Kind::DomainRecord,
        "spec:
  zone: example-com
  name: api.example.com
  ttl: 300
  target:
    ref:
      group: gateway.apoxy.dev
      kind: Gateway
      name: default",
    );
    taken(
        Kind::EdgeFunction,
        "spec:
  template:
    mode: filter
    code:
      jsSource:
        entrypoint: index.js
        assets:
          files:
          - path: index.js
            content: |
              export default {
                async request(req) {
                  const token = req.headers.get(\"authorization\");
                  if (!token) return new Response(\"Unauthorized\", { status: 401 });
                  return null; // pass through to backend
                }
              }
    runtime:
      timeout: 5s
      capabilities:
        fetchAPI: true
        kv: true",
    );
}

#[test]
fn core_objects_as_people_write_them_are_taken() {
    taken(Kind::Namespace, "{}");
    taken(Kind::Secret, "{type: kubernetes.io/tls, data: {tls.crt: Zm9v, tls.key: YmFy}}");
    taken(Kind::Secret, "{stringData: {password: hunter2}, immutable: true}");
    taken(Kind::ConfigMap, "{data: {a: '1', .hidden: x}, binaryData: {b: Zm9v}}");
    taken(Kind::Service, "{spec: {selector: {app: a}, ports: [{port: 80, targetPort: http}]}}");
    taken(
        Kind::Service,
        "{spec: {ports: [{name: a, port: 53, protocol: UDP}, {name: b, port: 53, protocol: TCP, targetPort: 5353}]}}",
    );
    taken(Kind::Service, "{spec: {type: ExternalName, externalName: example.com}}");
    taken(Kind::Service, "{spec: {clusterIP: None, selector: {app: a}}}");
    taken(Kind::Service, "{spec: {clusterIP: 10.96.0.1, ports: [{port: 80}]}, status: {loadBalancer: {}}}");
    taken(Kind::ServiceAccount, "{automountServiceAccountToken: false, imagePullSecrets: [{name: r}]}");
    taken(Kind::EndpointSlice, "{addressType: IPv4, endpoints: [{addresses: [192.0.2.1]}], ports: [{port: 80}]}");
    taken(Kind::EndpointSlice, "{addressType: IPv6, endpoints: [{addresses: ['2001:db8::1']}]}");
    taken(Kind::EndpointSlice, "{addressType: FQDN, endpoints: null, ports: null}");
    taken(
        Kind::Lease,
        "{spec: {holderIdentity: me, leaseDurationSeconds: 15, renewTime: '2030-01-01T00:00:00.000001Z'}}",
    );
    taken(
        Kind::ClusterRoleBinding,
        "{roleRef: {name: view}, subjects: [{kind: User, apiGroup: rbac.authorization.k8s.io, name: ann},
        {kind: ServiceAccount, name: ci, namespace: default}]}",
    );
    taken(Kind::CustomResourceDefinition, "{spec: {group: a.b, names: {kind: X}, anything: [1]}}");
}

#[test]
fn a_pod_and_a_deployment_as_kubectl_and_client_go_write_them_are_taken() {
    let pod = "
      securityContext: {}
      nodeSelector: {a: b}
      volumes:
      - name: certs
        secret: {secretName: c, items: [{key: a, path: b}]}
      containers:
      - name: echo
        image: example.com/echo:1
        imagePullPolicy: Always
        args: [--port, '80']
        env:
        - name: POD_NAME
          valueFrom: {fieldRef: {fieldPath: metadata.name}}
        ports:
        - {containerPort: 80, name: http}
        - {containerPort: 80, protocol: UDP}
        resources: {limits: {cpu: 100m, memory: 1}, requests: {}}
        readinessProbe: {httpGet: {path: /, port: 80}}
        volumeMounts: [{name: certs, mountPath: /certs, readOnly: true}]";
    let status =
        "{phase: Running, podIP: 10.0.0.1, podIPs: [{ip: 10.0.0.1}], containerStatuses: [{name: echo, ready: true}],
      conditions: [{type: Ready, status: 'True', lastProbeTime: null, lastTransitionTime: '2030-01-01T00:00:00Z'}]}";
    taken(Kind::Pod, &format!("spec:{pod}\nstatus: {status}"));
    let pod = pod.replace('\n', "\n    ");
    let template =
        format!("{{}}\n  template:\n    metadata: {{creationTimestamp: null, labels: {{app: echo}}}}\n    spec:{pod}");
    let spec = format!(
        "spec:\n  replicas: 2\n  selector: {{matchLabels: {{app: echo}}}}\n  strategy: {template}\nstatus: {{}}"
    );
    taken(Kind::Deployment, &spec);
    defaulted(Kind::Deployment, &spec, "/spec/strategy/type", &json!("RollingUpdate"));
    defaulted(Kind::Deployment, &spec, "/spec/template/spec/containers/0/ports/0/protocol", &json!("TCP"));
    let other = spec.replace("labels: {app: echo}", "labels: {app: other}");
    refused(Kind::Deployment, &other, &["spec.template.metadata.labels", "does not match template"]);
    let (relabelled, wider) = (spec.replace("app: echo", "app: other"), spec.replace("replicas: 2", "replicas: 9"));
    fixed(Kind::Deployment, &spec, &relabelled, &["spec.selector", "immutable"]);
    assert_eq!(
        problems(Kind::Deployment, &object(Kind::Deployment, &wider), Some(&object(Kind::Deployment, &spec))),
        [""; 0]
    );
}

#[test]
fn core_defaults_are_kubernetes() {
    defaulted(Kind::Secret, "{}", "/type", &json!("Opaque"));
    let service = "{spec: {ports: [{port: 80}]}}";
    defaulted(Kind::Service, service, "/spec/type", &json!("ClusterIP"));
    defaulted(Kind::Service, service, "/spec/sessionAffinity", &json!("None"));
    defaulted(Kind::Service, service, "/spec/ports/0/protocol", &json!("TCP"));
    defaulted(Kind::EndpointSlice, "{addressType: IPv4, endpoints: null}", "/endpoints", &json!([]));
    let binding = "{roleRef: {name: admin}}";
    defaulted(Kind::ClusterRoleBinding, binding, "/roleRef/apiGroup", &json!("rbac.authorization.k8s.io"));
    defaulted(Kind::ClusterRoleBinding, binding, "/roleRef/kind", &json!("ClusterRole"));
}

#[test]
fn core_objects_that_make_no_sense_are_refused() {
    refused(Kind::Secret, "{data: {'a b': Zm9v}}", &["data", "a key may have letters"]);
    refused(Kind::Secret, "{data: {a: '***'}}", &["data"]);
    refused(Kind::Secret, "{type: kubernetes.io/tls, data: {tls.crt: Zm9v}}", &["data", "tls.key"]);
    refused(Kind::Secret, "{type: kubernetes.io/ssh-auth}", &["ssh-privatekey"]);
    refused(Kind::ConfigMap, "{data: {a: x}, binaryData: {a: Zm9v}}", &["data", "not in both"]);
    refused(Kind::ConfigMap, "{data: {a: 1}}", &["data", "string"]);
    refused(Kind::Service, "{spec: {selector: {a: b}}}", &["spec.ports", "needs a port"]);
    refused(Kind::Service, "{spec: {ports: [{port: 1}, {port: 2, name: b}]}}", &["spec.ports", "must have a name"]);
    refused(Kind::Service, "{spec: {ports: [{port: 1, name: a}, {port: 2, name: a}]}}", &["same name"]);
    refused(Kind::Service, "{spec: {type: ExternalName}}", &["spec.externalName"]);
    refused(Kind::Service, "{spec: {clusterIP: nine, ports: [{port: 1}]}}", &["spec.clusterIP"]);
    refused(Kind::Service, "{spec: {ports: [{port: 0}]}}", &["spec.ports[0].port"]);
    refused(Kind::EndpointSlice, "{addressType: IPv4, endpoints: [{addresses: ['::1']}]}", &["IPv4"]);
    refused(Kind::EndpointSlice, "{addressType: IPv4, endpoints: [{addresses: []}]}", &["endpoints[0].addresses"]);
    refused(Kind::Lease, "{spec: {leaseDurationSeconds: 0}}", &["spec.leaseDurationSeconds"]);
    refused(Kind::ClusterRoleBinding, "{roleRef: {name: root}}", &["roleRef.name"]);
    let nameless = "{roleRef: {name: admin}, subjects: [{kind: ServiceAccount, name: ci}]}";
    refused(Kind::ClusterRoleBinding, nameless, &["subjects[0].namespace"]);
    refused(Kind::Pod, "{spec: {containers: []}}", &["spec.containers"]);
    refused(Kind::Pod, "{spec: {containers: [{name: a}, {name: a}]}}", &["spec.containers[1]"]);
    refused(Kind::Pod, "{spec: {containers: [{name: a, prots: []}]}}", &["spec.containers[0].prots"]);
}

#[test]
fn what_kubernetes_fixes_is_fixed() {
    fixed(Kind::Secret, "{type: Opaque}", "{type: other}", &["type", "immutable"]);
    fixed(Kind::Secret, "{immutable: true, data: {a: Zm9v}}", "{immutable: true, data: {a: YmFy}}", &["data"]);
    fixed(Kind::Secret, "{immutable: true}", "{immutable: false}", &["immutable"]);
    fixed(Kind::ConfigMap, "{immutable: true, data: {a: x}}", "{immutable: true}", &["data"]);
    fixed(Kind::EndpointSlice, "{addressType: IPv4}", "{addressType: IPv6}", &["addressType", "immutable"]);
    fixed(Kind::ClusterRoleBinding, "{roleRef: {name: view}}", "{roleRef: {name: admin}}", &["cannot change roleRef"]);
    let record = |name: &str, data: &str| format!("{{spec: {{name: {name}, target: {{dns: {{{data}}}}}}}}}");
    let before = record("a.example.com", "a: [192.0.2.1]");
    fixed(Kind::DomainRecord, &before, &record("b.example.com", "a: [192.0.2.1]"), &["spec.name", "immutable"]);
    fixed(Kind::DomainRecord, &before, &record("a.example.com", "txt: [x]"), &["spec.target", "immutable"]);
    let revision = |path: &str| format!("{{spec: {{code: {{wasmSource: {{url: 'https://a/{path}'}}}}}}}}");
    fixed(Kind::EdgeFunctionRevision, &revision("1"), &revision("2"), &["spec", "immutable"]);
}

#[test]
fn our_own_kinds_are_taken_with_all_they_can_say() {
    taken(Kind::Project, "{spec: {hostnameSuffix: acme.example.com}, status: {prefix: 'fd00::/48'}}");
    taken(Kind::TunnelNode, "{}");
    taken(
        Kind::TunnelNode,
        "{spec: {routes: [10.0.0.0/8, 'fd12::/64'], defaultUpstream: '127.0.0.1:8080', allowFrom: [
        {node: a, ports: [80, 8000-8010]}, {gateway: default/g}]}, status: {addresses: ['a:7443'], prefix: 'fd00::/64',
        agents: [{name: x, connectedAt: '2030-01-01T00:00:00Z', agentAddress: 'fd00::1', relay: r}], conditions: []}}",
    );
    taken(Kind::Backend, "{spec: {endpoints: [{fqdn: office.tun.internal}, {ip: 192.0.2.1}, {ip: '2001:db8::1'}]}}");
    taken(Kind::Backend, "{spec: {dynamicProxy: {dnsCacheConfig: {maxHosts: 5}}}}");
    taken(Kind::Proxy, "{}");
    taken(
        Kind::Proxy,
        "{spec: {provider: unmanaged, shutdown: {drainTimeout: 1m}, telemetry: {accessLogs: {json: {a: b}}, tracing:
        {enabled: true, tags: {x: {header: x-tag}}}, thirdPartySinks: {axiomLogs: {key: k}}}}}",
    );
    taken(Kind::DomainZone, "{spec: {nameservers: [ns1.example.com], registrationConfig: {autoRenew: true}}}");
    taken(Kind::DomainRecord, "{spec: {name: '*.example.com', target: {dns: {fqdn: other.example.com}}}}");
    taken(Kind::CloudMonitoringIntegration, "{spec: {datadogCredentials: {apiKey: k, site: datadoghq.eu}}}");
    taken(
        Kind::DirectResponse,
        "{spec: {statusCode: 410, headers: [{name: x, value: z}], body: {type: Inline, inline: gone}}}",
    );
    taken(Kind::HttpRouteFilter, "{spec: {compressor: {algorithms: [gzip, zstd], minContentLength: 50}}}");
    taken(
        Kind::EdgeFunction,
        "{spec: {template: {code: {goPluginSource: {oci: {repo: example.com/p}}}, env: [{name: A, value: b}]}}}",
    );
    taken(
        Kind::RateLimit,
        "{spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}], descriptors: [
        {key: remote_address, rateLimit: {unit: Minute, requestsPerUnit: 10}}, {key: k, rateLimit: {unlimited: true}}]}}",
    );
}

#[test]
fn our_own_defaults_are_those_of_the_documentation() {
    defaulted(Kind::Proxy, "{}", "/spec/provider", &json!("unmanaged"));
    defaulted(Kind::Proxy, "{spec: {shutdown: {}}}", "/spec/shutdown/drainTimeout", &json!("30s"));
    defaulted(Kind::TunnelNode, "{}", "/spec", &json!({}));
    defaulted(Kind::TunnelNode, "{spec: {egressGateway: {}}}", "/spec/egressGateway/enabled", &json!(false));
    let cache = "{spec: {dynamicProxy: {dnsCacheConfig: {}}}}";
    let want = json!({
        "dnsLookupFamily": "auto", "dnsRefreshRate": "60s", "dnsMinRefreshRate": "5s", "hostTTL": "5m",
        "maxHosts": 1024, "dnsQueryTimeout": "5s",
    });
    defaulted(Kind::Backend, cache, "/spec/dynamicProxy/dnsCacheConfig", &want);
    let record = "{spec: {name: a.b, target: {dns: {txt: [x]}}}}";
    defaulted(Kind::DomainRecord, record, "/spec/ttl", &json!(300));
    defaulted(Kind::DirectResponse, "{}", "/spec", &json!({"statusCode": 200, "contentType": "text/plain"}));
    let function = "{spec: {template: {code: {wasmSource: {url: x}}, runtime: {capabilities: {}}}}}";
    defaulted(Kind::EdgeFunction, function, "/spec/revisionHistoryLimit", &json!(10));
    let want = json!({"timeout": "30s", "capabilities": {"fetchAPI": true, "kv": true}});
    defaulted(Kind::EdgeFunction, function, "/spec/template/runtime", &want);
}

#[test]
fn our_own_kinds_refuse_what_makes_no_sense() {
    refused(Kind::Backend, "{spec: {}}", &["spec.endpoints", "needs an endpoint"]);
    refused(Kind::Backend, "{spec: {endpoints: []}}", &["spec.endpoints"]);
    refused(Kind::Backend, "{spec: {endpoints: [{}]}}", &["spec.endpoints[0]", "one of `fqdn` and `ip`"]);
    refused(Kind::Backend, "{spec: {endpoints: [{fqdn: a.b, ip: 1.1.1.1}]}}", &["exclude each other"]);
    for (fqdn, says) in [
        ("10.0.0.1", "write it as `ip`"),
        ("'2001:db8::1'", "write it as `ip`"),
        ("office", "NODE.tun.internal"),
        ("'a.example.com:80'", "a port belongs"),
        ("Api.example.com", "lower case"),
        ("a.example.99", "neither an IP address nor a DNS name"),
    ] {
        refused(Kind::Backend, &format!("{{spec: {{endpoints: [{{fqdn: {fqdn}}}]}}}}"), &["fqdn", says]);
    }
    refused(Kind::Backend, "{spec: {endpoints: [{ip: nine}]}}", &["spec.endpoints[0].ip"]);
    refused(Kind::Backend, "{spec: {endpoints: [{ip: 1.1.1.1}], protocol: smtp}}", &["spec.protocol"]);
    refused(Kind::TunnelNode, "{spec: {routes: [127.0.0.0/8]}}", &["spec.routes[0]", "loopback"]);
    refused(Kind::TunnelNode, "{spec: {routes: [10.0.0.1]}}", &["spec.routes[0]"]);
    refused(Kind::TunnelNode, "{spec: {allowFrom: [{}]}}", &["spec.allowFrom[0]", "either"]);
    refused(Kind::TunnelNode, "{spec: {allowFrom: [{node: a, gateway: b}]}}", &["either"]);
    refused(Kind::TunnelNode, "{spec: {allowFrom: [{node: a, ports: [http]}]}}", &["ports[0]"]);
    refused(Kind::TunnelNode, "{spec: {egressgateway: {}}}", &["spec.egressgateway", "egressGateway"]);
    refused(Kind::Proxy, "{spec: {provider: cloud, telemetry: {}}}", &["spec.telemetry", "CloudMonitoringIntegration"]);
    refused(Kind::Proxy, "{spec: {shutdown: {minimumDrainTime: 2m}}}", &["minimumDrainTime", "at most drainTimeout"]);
    refused(Kind::DomainRecord, "{spec: {name: a.b, target: {}}}", &["spec.target", "either"]);
    refused(Kind::DomainRecord, "{spec: {name: a.b, target: {dns: {a: [1.1.1.1], txt: [x]}}}}", &["spec.target.dns"]);
    refused(Kind::DomainRecord, "{spec: {name: a.b, tls: {}, target: {dns: {txt: [x]}}}}", &["spec.tls"]);
    refused(Kind::CloudMonitoringIntegration, "{spec: {}}", &["spec", "exactly one"]);
    refused(Kind::DirectResponse, "{spec: {statusCode: 99}}", &["spec.statusCode"]);
    refused(Kind::HttpRouteFilter, "{spec: {}}", &["spec", "compressor"]);
    refused(
        Kind::HttpRouteFilter,
        "{spec: {compressor: {disabled: true, algorithms: [gzip]}}}",
        &["excludes every other"],
    );
    refused(Kind::EdgeFunction, "{spec: {template: {code: {}}}}", &["spec.template.code", "exactly one"]);
    let plugin = "{spec: {template: {mode: backend, code: {goPluginSource: {url: x}}}}}";
    refused(Kind::EdgeFunction, plugin, &["spec.template.mode", "filter"]);
    refused(
        Kind::RateLimit,
        "{spec: {descriptors: [{key: k, rateLimit: {unit: Day}}]}}",
        &["rateLimit", "requestsPerUnit"],
    );
}

const TARGET: &str = "targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: g}]";

#[test]
fn policies_as_users_of_envoy_gateway_write_them_are_taken() {
    let check = |kind, spec: &str| taken(kind, &format!("{{spec: {{{TARGET}, {spec}}}}}"));
    for kind in [Kind::BackendTrafficPolicy, Kind::ClientTrafficPolicy, Kind::SecurityPolicy] {
        taken(kind, &format!("{{spec: {{{TARGET}}}}}"));
    }
    let traffic = Kind::BackendTrafficPolicy;
    check(traffic, "loadBalancer: {type: ConsistentHash, consistentHash: {type: Header, header: {name: x-user}}}");
    check(
        traffic,
        "loadBalancer: {type: LeastRequest, slowStart: {window: 60s}}, circuitBreaker: {maxConnections: 10}",
    );
    check(
        traffic,
        "healthCheck: {active: {type: HTTP, timeout: 500ms, http: {path: /healthz, expectedStatuses: [200, 204]}},
        passive: {consecutive5XxErrors: 3, baseEjectionTime: 1m}}",
    );
    check(
        traffic,
        "retry: {numRetries: 5, retryOn: {triggers: [connect-failure, retriable-status-codes], httpStatusCodes: [500]},
        perRetry: {timeout: 250ms, backOff: {baseInterval: 100ms, maxInterval: 10s}}}",
    );
    check(traffic, "timeout: {tcp: {connectTimeout: 5s}, http: {requestTimeout: 1m, connectionIdleTimeout: 1h}}");
    check(traffic, "faultInjection: {delay: {fixedDelay: 2s, percentage: 0.5}, abort: {httpStatus: 501}}");
    check(
        traffic,
        "rateLimit: {type: Global, global: {rules: [{clientSelectors: [{headers: [{name: x-user, type: Distinct}],
        sourceCIDR: {value: 10.0.0.0/8, type: Distinct}}], limit: {requests: 3, unit: Hour}}]}}",
    );
    let client = Kind::ClientTrafficPolicy;
    check(client, "tcpKeepalive: {idleTime: 20m, interval: 60s, probes: 3}, proxyProtocol: {}, http3: {}");
    check(
        client,
        "clientIPDetection: {xForwardedFor: {numTrustedHops: 1}}, path: {escapedSlashesAction: RejectRequest}",
    );
    check(
        client,
        "tls: {minVersion: '1.2', maxVersion: '1.3', alpnProtocols: [h2, http/1.1]}, timeout: {http: {idleTimeout: 5s}}",
    );
    check(
        client,
        "connection: {connectionLimit: {value: 5, closeDelay: 1s}, bufferLimit: 32Ki}, http2: {maxConcurrentStreams: 200}",
    );
    let security = Kind::SecurityPolicy;
    check(security, "cors: {allowOrigins: ['https://*.example.com', '*'], allowMethods: [GET], maxAge: 10m}");
    check(
        security,
        "jwt: {providers: [{name: e, issuer: 'https://e', remoteJWKS: {uri: 'https://e/jwks.json'},
        claimToHeaders: [{header: x-sub, claim: sub}]}]}, authorization: {defaultAction: Deny, rules: [{name: a, action:
        Allow, principal: {jwt: {provider: e, scopes: [read], claims: [{name: role, values: [admin]}]}}}]}",
    );
    check(
        security,
        "oidc: {provider: {issuer: 'https://accounts.example.com'}, clientID: c, clientSecret: {name: s},
        redirectURL: 'https://a/oauth2/callback', logoutPath: /logout, scopes: [email]}",
    );
    check(security, "basicAuth: {users: {name: htpasswd}}");
    check(security, "apiKeyAuth: {credentialRefs: [{name: s}], extractFrom: [{headers: [x-api-key]}]}");
    check(
        security,
        "extAuth: {http: {backendRefs: [{name: auth, port: 80}], path: /check, headersToBackend: [x-user]}}",
    );
    check(security, "authorization: {rules: [{action: Allow, principal: {clientCIDRs: [10.0.0.0/8, '::/0']}}]}");
}

#[test]
fn policies_that_make_no_sense_are_refused() {
    let check = |kind, spec: &str, words: &[&str]| refused(kind, &format!("{{spec: {{{TARGET}, {spec}}}}}"), words);
    let traffic = Kind::BackendTrafficPolicy;
    refused(traffic, "{spec: {}}", &["spec.targetRefs"]);
    let service = "{spec: {targetRefs: [{group: core.apoxy.dev, kind: Proxy, name: p}]}}";
    refused(traffic, service, &["spec.targetRefs", "Gateway, ListenerSet, route or Backend"]);
    let one = "{group: gateway.networking.k8s.io, kind: Gateway, name: g}";
    refused(traffic, &format!("{{spec: {{targetRefs: [{one}, {one}]}}}}"), &["spec.targetRefs", "named twice"]);
    check(traffic, "loadBalancer: {type: Random, slowStart: {window: 1s}}", &["spec.loadBalancer", "SlowStart"]);
    check(traffic, "loadBalancer: {type: ConsistentHash}", &["consistentHash"]);
    check(traffic, "healthCheck: {active: {type: HTTP}}", &["spec.healthCheck.active", "http field"]);
    check(traffic, "retry: {perRetry: {backOff: {baseInterval: 2s, maxInterval: 1s}}}", &["maxInterval"]);
    check(traffic, "faultInjection: {}", &["spec.faultInjection"]);
    check(traffic, "rateLimit: {local: {rules: [{limit: {requests: 1, unit: Week}}]}}", &["limit.unit"]);
    check(traffic, "timeout: {tcp: {connectTimeout: soon}}", &["spec.timeout.tcp.connectTimeout"]);
    let client = Kind::ClientTrafficPolicy;
    check(client, "tls: {minVersion: '1.3', maxVersion: '1.2'}", &["spec.tls", "minVersion"]);
    check(client, "tls: {maxVersion: '1.1'}", &["spec.tls", "minVersion"]);
    check(client, "clientIPDetection: {xForwardedFor: {}}", &["numTrustedHops or trustedCIDRs"]);
    let route = "{spec: {targetRefs: [{group: gateway.networking.k8s.io, kind: HTTPRoute, name: r}]}}";
    refused(client, route, &["spec.targetRefs", "Gateway or ListenerSet"]);
    let security = Kind::SecurityPolicy;
    check(security, "jwt: {providers: [{name: e}]}", &["remoteJWKS or localJWKS"]);
    check(security, "oidc: {provider: {issuer: 'https://a'}, clientSecret: {name: s}}", &["clientID or clientIDRef"]);
    check(security, "extAuth: {}", &["spec.extAuth", "one of grpc or http"]);
    let claims = "authorization: {rules: [{action: Allow, principal: {jwt: {provider: e, scopes: [a]}}}]}";
    check(security, claims, &["spec.authorization", "jwt must be defined"]);
    check(security, "authorization: {rules: [{action: Allow, principal: {}}]}", &["at least one of clientCIDRs"]);
}

/// The fields below `node` that no sentence explains, and the rules that are none.
fn unexplained(node: &Node, path: &str, found: &mut Vec<String>) {
    found.extend(node.rules.iter().filter_map(|rule| Some(format!("{path}: {}", rule.compile().err()?))));
    match &node.form {
        Form::Object { properties, additional, .. } => {
            for (name, field) in properties {
                let path = format!("{path}.{name}");
                if field.description.is_empty() {
                    found.push(path.clone());
                }
                unexplained(field, &path, found);
            }
            additional.iter().for_each(|value| unexplained(value, path, found));
        }
        Form::List { items, .. } => unexplained(items, path, found),
        _ => {}
    }
}

#[test]
fn every_kind_and_field_is_explained_and_every_rule_can_be_read() {
    let mut found = Vec::new();
    for info in KINDS {
        let root = of(info.kind).root();
        if root.description.is_empty() {
            found.push(info.name.to_owned());
        }
        unexplained(root, info.name, &mut found);
    }
    assert_eq!(found, [""; 0]);
}
