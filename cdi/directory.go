// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// abandonedAge is the age from which on a temporary file is taken to be left behind by a killed
// process. A running process may still be writing a younger one.
const abandonedAge = time.Minute

// otherFile is a spec file of the vendor that this process does not own. It is immutable.
type otherFile struct {
	path  string
	class string
	n     int // number of the file within its class
	info  fs.FileInfo
	spec  spec
}

// defines reports whether the file has an entry for the device.
func (o *otherFile) defines(name string) bool {
	_, found := slices.BinarySearchFunc(o.spec.entries, name, compareName)
	return found
}

// specName matches what follows the vendor in the name of a spec file.
var specName = regexp.MustCompile(`^-(.+)_device-plugin(?:-([1-9][0-9]{0,3}))?\.json$`)

// parseSpecName returns the class and the number of the spec file with this name.
func (c *Config) parseSpecName(name string) (class string, n int, ok bool) {
	rest, ours := strings.CutPrefix(name, c.Vendor)
	parts := specName.FindStringSubmatch(rest)
	if !ours || parts == nil {
		return "", 0, false
	}
	n = 1
	if parts[2] != "" {
		n, _ = strconv.Atoi(parts[2])
	}
	class = parts[1]
	return class, n, c.specPath(class, n) == filepath.Join(c.Dir, name)
}

// isAbandoned reports whether this is a temporary file that a killed process has left behind.
func (c *Config) isAbandoned(e fs.DirEntry) bool {
	// The vendor has no characters that are special in a pattern.
	isTemporary, _ := filepath.Match("."+c.Vendor+"-*.json.*"+temporarySuffix, e.Name())
	if !isTemporary {
		return false
	}
	info, err := e.Info()
	return err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) >= abandonedAge
}

// readOthers returns the spec files of the vendor that are not in own, by class and ascending by
// number. It reuses the elements of before whose files have not changed. It skips a file that is
// not regular, or whose kind does not match its name.
func (c *Config) readOthers(own map[string][]*file, before map[string][]*otherFile) (map[string][]*otherFile, error) {
	entries, err := os.ReadDir(c.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	others := map[string][]*otherFile{}
	for _, e := range entries {
		class, n, ok := c.parseSpecName(e.Name())
		path := filepath.Join(c.Dir, e.Name())
		if !ok || slices.ContainsFunc(own[class], func(f *file) bool { return f.path == path }) {
			continue
		}
		info, err := e.Info()
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		i := slices.IndexFunc(before[class], func(o *otherFile) bool { return o.n == n })
		if i >= 0 && sameFile(before[class][i].info, info) {
			others[class] = append(others[class], before[class][i])
			continue
		}
		spec, err := readSpec(path)
		if err != nil || spec.kind != c.Vendor+"/"+class {
			continue
		}
		others[class] = append(others[class], &otherFile{path: path, class: class, n: n, info: info, spec: spec})
	}
	for _, list := range others {
		slices.SortFunc(list, func(a, b *otherFile) int { return a.n - b.n })
	}
	return others, nil
}

// sameFile reports whether both describe the same unchanged file.
func sameFile(before, now fs.FileInfo) bool {
	return os.SameFile(before, now) && before.ModTime().Equal(now.ModTime()) && before.Size() == now.Size()
}

// spec is the content of a spec file.
type spec struct {
	kind    string
	entries []*entry // ascending by name
}

func readSpec(path string) (spec, error) {
	text, err := readText(path)
	if err != nil {
		return spec{}, err
	}
	return parseSpec(text)
}

// maxSpec limits the size of a spec file that is read, in bytes. 4096 VFs need about 2 MiB.
const maxSpec = 16 << 20

// readText returns the text of a spec file. It limits the size, because another program may have
// written the file.
func readText(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	text, err := io.ReadAll(io.LimitReader(file, maxSpec+1))
	if err == nil && len(text) > maxSpec {
		err = &fs.PathError{Op: "read", Path: path, Err: syscall.EFBIG}
	}
	return text, err
}

// parseSpec parses the text of a spec file. Another program may have written it.
func parseSpec(text []byte) (spec, error) {
	var parsed struct {
		Kind    string
		Devices []json.RawMessage
	}
	if err := json.Unmarshal(text, &parsed); err != nil {
		return spec{}, err
	}
	s := spec{kind: parsed.Kind}
	for _, device := range parsed.Devices {
		var named struct{ Name string }
		if err := json.Unmarshal(device, &named); err != nil {
			return spec{}, err
		}
		s.entries = append(s.entries, &entry{name: named.Name, json: device})
	}
	slices.SortFunc(s.entries, compareNames)
	return s, nil
}
