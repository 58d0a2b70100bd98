package cluster

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"

	core "k8s.io/api/core/v1"
)

// volume is what a volume holds, by key, and which keys become which files.
func (c *Cluster) volume(namespace string, volume core.Volume) (map[string][]byte, []core.KeyToPath, error) {
	switch {
	case volume.Secret != nil:
		secret, err := c.secrets.Secrets(namespace).Get(volume.Secret.SecretName)
		if err != nil {
			return nil, nil, err
		}
		return secret.Data, volume.Secret.Items, nil
	case volume.ConfigMap != nil:
		configMap, err := c.configMaps.ConfigMaps(namespace).Get(volume.ConfigMap.Name)
		if err != nil {
			return nil, nil, err
		}
		data := maps.Clone(configMap.BinaryData)
		if data == nil {
			data = map[string][]byte{}
		}
		for key, text := range configMap.Data {
			data[key] = []byte(text)
		}
		return data, volume.ConfigMap.Items, nil
	default:
		return nil, nil, fmt.Errorf("volume %s is neither a Secret nor a ConfigMap", volume.Name)
	}
}

// writeVolume writes the items, or every key under its own name when there are none.
func writeVolume(folder string, data map[string][]byte, items []core.KeyToPath) error {
	if len(items) == 0 {
		for key := range data {
			items = append(items, core.KeyToPath{Key: key, Path: key})
		}
	}
	for _, item := range items {
		content, ok := data[item.Key]
		if !ok {
			return fmt.Errorf("volume %s has no key %s", filepath.Base(folder), item.Key)
		}
		if !filepath.IsLocal(item.Path) {
			return fmt.Errorf("volume %s: path %s leads out of it", filepath.Base(folder), item.Path)
		}
		path := filepath.Join(folder, item.Path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
