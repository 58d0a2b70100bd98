// The Gateway API as tests/tests/upstream.rs compares it with our definitions: the files of its module, no code.
module underpass.invalid/tests/gateway-api

go 1.24.0

require sigs.k8s.io/gateway-api v1.6.1
