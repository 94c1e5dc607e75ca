package broker

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// ByteSize is a number of bytes, written as one or with a unit: 64MiB, 1GiB.
type ByteSize int64

var byteUnits = []struct {
	name string
	n    int64
}{{"TiB", 1 << 40}, {"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"B", 1}}

// UnmarshalText implements encoding.TextUnmarshaler.
func (b *ByteSize) UnmarshalText(text []byte) error {
	s, unit := strings.TrimSpace(string(text)), int64(1)
	for _, u := range byteUnits {
		if rest, ok := strings.CutSuffix(s, u.name); ok {
			s, unit = strings.TrimSpace(rest), u.n
			break
		}
	}
	n, err := strconv.ParseInt(s, 10, 64)
	if err != nil || n > (1<<62)/unit {
		return fmt.Errorf("%q is no size: write 1073741824 or 1GiB", text)
	}
	*b = ByteSize(n * unit)
	return nil
}

func (b ByteSize) String() string {
	for _, u := range byteUnits {
		if int64(b) >= u.n && int64(b)%u.n == 0 {
			return fmt.Sprintf("%d%s", int64(b)/u.n, u.name)
		}
	}
	return strconv.FormatInt(int64(b), 10)
}

// Duration is a time span, written as 300ms or 2m. A bare number is ms, as in
// RocketMQ's files.
type Duration time.Duration

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(text []byte) error {
	if ms, err := strconv.ParseInt(string(text), 10, 32); err == nil {
		*d = Duration(time.Duration(ms) * time.Millisecond)
		return nil
	}
	v, err := time.ParseDuration(string(text))
	if err != nil {
		return fmt.Errorf("%q is no time span: write 300ms, 5s, 2m, or a number of ms", text)
	}
	*d = Duration(v)
	return nil
}

func (d Duration) String() string { return time.Duration(d).String() }

// ErrConfig is what an error in a configuration wraps.
var ErrConfig = errors.New("configuration")

// LoadConfig reads a YAML file. Unknown keys are errors.
func LoadConfig(name string) (Config, error) {
	text, err := os.ReadFile(name)
	if err != nil {
		return Config{}, fmt.Errorf("%w: %w", ErrConfig, err)
	}
	var c Config
	d := yaml.NewDecoder(bytes.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(&c); err != nil && err != io.EOF {
		return Config{}, fmt.Errorf("%w: %s: %w (CONFIGURATION.md has all keys)", ErrConfig, name, err)
	}
	if err := d.Decode(new(yaml.Node)); err != io.EOF {
		return Config{}, fmt.Errorf("%w: %s: there is more behind the first YAML document: one file has one", ErrConfig, name)
	}
	return c, nil
}

// Override sets single keys, as flags and environment variables give them. A key
// is a top-level one of the YAML file.
func (c *Config) Override(values map[string]string) error {
	v := reflect.ValueOf(c).Elem()
	for _, key := range slices.Sorted(maps.Keys(values)) {
		if !overridable(v, key) {
			return fmt.Errorf("%w: %s=%s: there is no single value of that name; CONFIGURATION.md has all keys, and nodes and groups are set in the file only", ErrConfig, key, values[key])
		}
		d := yaml.NewDecoder(strings.NewReader(key + ": " + values[key]))
		d.KnownFields(true)
		if err := d.Decode(c); err != nil {
			return fmt.Errorf("%w: %s: %w", ErrConfig, key, err)
		}
	}
	return nil
}

func overridable(v reflect.Value, key string) bool {
	for i := range v.NumField() {
		if f := v.Type().Field(i); f.IsExported() && f.Tag.Get("yaml") == key {
			return v.Field(i).Kind() != reflect.Map && v.Field(i).Kind() != reflect.Slice
		}
	}
	return false
}

// Keys lists the keys that Override knows.
func Keys() []string {
	var keys []string
	v := reflect.ValueOf(&Config{}).Elem()
	for i := range v.NumField() {
		if key := v.Type().Field(i).Tag.Get("yaml"); overridable(v, key) {
			keys = append(keys, key)
		}
	}
	return keys
}

// properties is the configuration as RocketMQ's tools read it: key=value lines.
func (c *Config) properties(b *Broker) string {
	var out strings.Builder
	fmt.Fprintf(&out, "brokerName=%s\nbrokerId=%d\n", b.name, b.brokerID())
	v := reflect.ValueOf(c).Elem()
	for i := range v.NumField() {
		key := v.Type().Field(i).Tag.Get("yaml")
		if !overridable(v, key) {
			continue
		}
		f := v.Field(i)
		if f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		value := fmt.Sprint(f.Interface())
		if n, ok := f.Interface().(ByteSize); ok {
			value = strconv.FormatInt(int64(n), 10)
		}
		fmt.Fprintf(&out, "%s=%s\n", key, value)
	}
	return out.String()
}
