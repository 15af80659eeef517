// SPDX-License-Identifier: Apache-2.0

package kernelmode

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"qatplugin/devtree"
)

func TestParseConfig(t *testing.T) {
	const keys = "NumProcesses = 2\nNumberCyInstances = 1\nNumberDcInstances = 0\n"
	const count = "must be a number from 0 to 4096"
	const crlf = "[SSL]\r\nNumProcesses = 2\r\nNumberCyInstances = 1\r\nNumberDcInstances = 0\r\n"
	const typical = `# a comment
Config_Version = 2

[GENERAL]
ServicesEnabled = cy;dc
[KERNEL]
NumberCyInstances = 1
[KERNEL_QAT]
NumProcesses = x

##### SSL #####
[SSL]
NumberCyInstances = 1
NumberDcInstances = 0
NumProcesses = 2  # two
LimitDevAccess = 0

# Crypto - User instance #0
Cy0Name = "SSL0"
Cy0CoreAffinity = 1,2
`
	one := section{Name: "SSL", Processes: 2, Cy: 1, Dc: 0}
	ssl := []section{one}
	pinned := []section{{Name: "SSL", Processes: 2, Cy: 1, Dc: 0, Pinned: true}}
	invalid := func(reason string) []section { return []section{{Name: "SSL", Invalid: reason}} }
	for name, test := range map[string]struct {
		text string
		want []section
		err  string
	}{
		"a typical file": {text: typical, want: ssl},
		"pinned": {
			text: "[SSL]\n" + keys + "LimitDevAccess = 1\n",
			want: pinned,
		},
		"pinned, as a word": {
			text: "[SSL]\n" + keys + "LimitDevAccess = yes\n",
			want: pinned,
		},
		"without LimitDevAccess": {text: "[SSL]\n" + keys, want: ssl},
		"two sections": {
			text: "[SSL]\n" + keys + "[SHIM]\n" + keys,
			want: []section{one, {Name: "SHIM", Processes: 2, Cy: 1}},
		},
		"CR LF line ends": {text: crlf, want: ssl},
		"no process": {
			text: "[SSL]\nNumProcesses = 0\nNumberCyInstances = 1\nNumberDcInstances = 0\n",
			want: []section{{Name: "SSL", Cy: 1}},
		},
		"as many processes as allowed": {
			text: "[SSL]\nNumProcesses = 4096\nNumberCyInstances = 1\nNumberDcInstances = 0\n",
			want: []section{{Name: "SSL", Processes: 4096, Cy: 1}},
		},
		"only sections for the kernel":    {text: "[GENERAL]\n[KERNEL]\n"},
		"a key twice with the same value": {text: "[SSL]\nNumProcesses = 2\n" + keys, want: ssl},
		"a backslash continues no line":   {text: "[SSL]\nX = a\\\n" + keys, want: ssl},
		"a dotted name inherits nothing": {
			text: "[SSL]\n" + keys + "[SSL.1]\nNumProcesses = 1\n",
			want: []section{one, {Name: "SSL.1", Invalid: "NumberCyInstances is missing"}},
		},
		"a value is not expanded": {
			text: "[SSL]\nX = 2\nNumProcesses = %(X)s\n",
			want: invalid(`NumProcesses: invalid value "%(X)s": ` + count),
		},
		"a missing key": {
			text: "[SSL]\nNumProcesses = 2\nNumberCyInstances = 1\n",
			want: invalid("NumberDcInstances is missing"),
		},
		"an empty value": {
			text: "[SSL]\nNumProcesses =\nNumberCyInstances = 1\n",
			want: invalid(`NumProcesses: invalid value "": ` + count),
		},
		"not a number": {
			text: "[SSL]\nNumProcesses = two\n",
			want: invalid(`NumProcesses: invalid value "two": ` + count),
		},
		"a negative number": {
			text: "[SSL]\nNumProcesses = 2\nNumberCyInstances = -1\n",
			want: invalid(`NumberCyInstances: invalid value "-1": ` + count),
		},
		"one process more than allowed": {
			text: "[SSL]\nNumProcesses = 4097\n",
			want: invalid(`NumProcesses: invalid value "4097": ` + count),
		},
		"a key with two values": {
			text: "[SSL]\n" + keys + "NumProcesses = 3\n",
			want: invalid("NumProcesses occurs with different values"),
		},
		"an invalid LimitDevAccess": {
			text: "[SSL]\n" + keys + "LimitDevAccess = maybe\n",
			want: invalid(`LimitDevAccess: invalid value "maybe": must be 0 or 1`),
		},
		"two values of LimitDevAccess": {
			text: "[SSL]\n" + keys + "LimitDevAccess = 1\nLimitDevAccess = 0\n",
			want: invalid("LimitDevAccess occurs with different values"),
		},
		"a name with spaces around it": {
			text: "[ SSL ]\n" + keys,
			want: []section{{Name: " SSL ", Invalid: `the section name " SSL " has a character that is not allowed`}},
		},
		"two sections of one name": {
			text: "[SSL]\n" + keys + "[SSL]\n" + keys,
			want: invalid("the section occurs more than once"),
		},
		"a name that is not valid in the Env": {
			text: "[S\x01]\n" + keys,
			want: []section{{Name: "S\x01", Invalid: `the section name "S\x01" has a character that is not allowed`}},
		},

		"an empty file":                {text: " \n", err: "the file is empty"},
		"a section that is not closed": {text: "[SSL\n" + keys, err: "line 1: unclosed section: [SSL"},
		"a section without a name":     {text: "[]\n" + keys, err: "line 1: empty section name"},
		"a line that is no INI": {
			text: "[SSL]\nNumProcesses\n",
			err:  "line 2: key-value delimiter not found: NumProcesses",
		},
		"a colon is no delimiter in INI": {
			text: "[SSL]\nNumProcesses: 2\n",
			err:  "line 2: key-value delimiter not found: NumProcesses: 2",
		},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseConfig(test.text)
			if test.err != "" {
				if err == nil || err.Error() != test.err {
					t.Errorf("error %v, want %s", err, test.err)
				}
				return
			}
			must(t, err)
			if diff := cmp.Diff(test.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestUnreadableConfigIsAnErrorWithItsName(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "directory"), 0o755))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	const maxConfig = 1 << 20
	must(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, maxConfig+1), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "broken"), []byte("[SSL"), 0o600))
	for name, want := range map[string]string{
		"directory": "is a directory",
		"fifo":      "the file is empty",
		"large":     "more than 1048576 bytes",
		"broken":    "unclosed section",
	} {
		path := filepath.Join(dir, name)
		_, err := readContent(path).parse(path)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one that names the file and says %q", name, err, want)
		}
	}
	largest := "[GENERAL]\n#" + strings.Repeat("x", maxConfig-len("[GENERAL]\n#"))
	must(t, os.WriteFile(filepath.Join(dir, "largest"), []byte(largest), 0o600))
	if _, err := readContent(filepath.Join(dir, "largest")).parse("largest"); err != nil {
		t.Errorf("a file of just the largest size: %v", err)
	}
}

// Whatever is in a file, each section has a name of its own. It is invalid, or
// a Tree accepts its units.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("[GENERAL]\nA = 1\n[SSL]\nNumProcesses = 2\n" +
		"NumberCyInstances = 1\nNumberDcInstances = 0\nLimitDevAccess = 1\n"))
	f.Add([]byte("[SSL]\nNumProcesses = 1\nNumProcesses = 1\n" +
		"NumberCyInstances = 0x1\nNumberDcInstances = %(x)s\n[SSL]\n- = 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		sections, err := parseConfig(string(text))
		if err != nil {
			return
		}
		d := &device{entry: entry{Type: "c6xx", State: "up"}, UIO: []string{"uio0"}, Config: config{sections: sections}}
		_, skipped := buildTree(&devtree.Tree{}, &snapshot{devices: []*device{d}})
		invalid := 0
		for _, s := range sections {
			if s.Invalid != "" {
				invalid++
			}
		}
		if len(skipped) != invalid {
			t.Errorf("%d sections are invalid, and skipped are %v", invalid, skipped)
		}
	})
}
