// Command protobuf prints the numbers and types of the fields that Kubernetes' own kinds have in protocol buffers, as
// relay/src/api/protobuf/messages.txt holds them. Its arguments are the fields to leave out, as MESSAGE.FIELD.
package main

import (
	"fmt"
	"os"
	"reflect"
	"slices"
	"strings"

	apps "k8s.io/api/apps/v1"
	authentication "k8s.io/api/authentication/v1"
	authorization "k8s.io/api/authorization/v1"
	coordination "k8s.io/api/coordination/v1"
	core "k8s.io/api/core/v1"
	discovery "k8s.io/api/discovery/v1"
	rbac "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

var roots = []any{
	core.Namespace{}, core.ServiceAccount{}, rbac.ClusterRoleBinding{}, core.Secret{}, core.ConfigMap{}, core.Service{},
	discovery.EndpointSlice{}, apps.Deployment{}, core.Pod{}, coordination.Lease{}, meta.DeleteOptions{},
	authentication.TokenRequest{}, authentication.SelfSubjectReview{}, authorization.SelfSubjectAccessReview{},
	authorization.SelfSubjectRulesReview{},
}

var special = map[reflect.Type]string{
	reflect.TypeOf(meta.Time{}): "time", reflect.TypeOf(meta.MicroTime{}): "microtime",
	reflect.TypeOf(resource.Quantity{}): "quantity", reflect.TypeOf(intstr.IntOrString{}): "int-or-string",
	reflect.TypeOf(meta.FieldsV1{}): "json", reflect.TypeOf(runtime.RawExtension{}): "json",
}

var (
	messages = map[string]string{}
	origin   = map[string]reflect.Type{}
)

func main() {
	for _, root := range roots {
		message(reflect.TypeOf(root))
	}
	names := []string{}
	for name := range messages {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		fmt.Printf("%s\n%s", name, messages[name])
	}
}

func name(t reflect.Type) string {
	parts := strings.Split(t.PkgPath(), "/")
	return parts[len(parts)-2] + "." + t.Name()
}

func message(t reflect.Type) {
	if _, seen := messages[name(t)]; seen {
		return
	}
	messages[name(t)], origin[name(t)] = "", t
	line, text := " ", ""
	for i := range t.NumField() {
		field := t.Field(i)
		number := strings.Split(field.Tag.Get("protobuf"), ",")
		if len(number) < 2 {
			continue // TypeMeta, which the envelope has
		}
		json := strings.Split(field.Tag.Get("json"), ",")
		flag := ""
		if slices.Contains(json, "omitempty") && field.Type.Kind() != reflect.Pointer {
			flag = "?"
		}
		if slices.Contains(json, "inline") {
			json[0] = "_"
		}
		if slices.Contains(os.Args[1:], name(t)+"."+json[0]) {
			continue
		}
		word := fmt.Sprintf(" %s:%s:%s%s", number[1], json[0], form(field.Type), flag)
		if len(line)+len(word) > 116 {
			text += line + "\n"
			line = " "
		}
		line += word
	}
	messages[name(t)] = text + line + "\n"
}

func form(t reflect.Type) string {
	if word, ok := special[t]; ok {
		return word
	}
	switch t.Kind() {
	case reflect.Pointer:
		return form(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[]" + form(t.Elem())
	case reflect.Map:
		return "{}" + form(t.Elem())
	case reflect.String:
		return "text"
	case reflect.Bool:
		return "bool"
	case reflect.Int32, reflect.Int64:
		return "int"
	case reflect.Struct:
		message(t)
		return name(t)
	}
	panic(t.String())
}
