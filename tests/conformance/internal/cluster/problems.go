package cluster

import (
	"cmp"
	"errors"

	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// problems gathers what went wrong with some objects while others went well.
type problems []error

func (p *problems) add(err error) {
	if err != nil {
		*p = append(*p, err)
	}
}

func (p problems) joined() error { return errors.Join(p...) }

// compare orders objects by namespace and name.
func compare(a, b meta.Object) int {
	return cmp.Or(cmp.Compare(a.GetNamespace(), b.GetNamespace()), cmp.Compare(a.GetName(), b.GetName()))
}
