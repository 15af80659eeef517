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
	ssl := section{Name: "SSL", Processes: 2, Cy: 1, Dc: 0}
	broken := func(why string) []section { return []section{{Name: "SSL", Broken: why}} }
	pin := func(s section) section { s.Pinned = true; return s }
	const three = "NumProcesses = 2\nNumberCyInstances = 1\nNumberDcInstances = 0\n"
	for _, tt := range []struct {
		name string
		text string
		want []section
		err  string
	}{
		{"a file as people write it", "# a comment\nConfig_Version = 2\n\n[GENERAL]\nServicesEnabled = cy;dc\n[KERNEL]\nNumberCyInstances = 1\n[KERNEL_QAT]\nNumProcesses = x\n\n" +
			"##### SSL #####\n[SSL]\nNumberCyInstances = 1\nNumberDcInstances = 0\nNumProcesses = 2  # two\nLimitDevAccess = 0\n\n# Crypto - User instance #0\nCy0Name = \"SSL0\"\nCy0CoreAffinity = 1,2\n", []section{ssl}, ""},
		{"pinned", "[SSL]\n" + three + "LimitDevAccess = 1\n", []section{pin(ssl)}, ""},
		{"pinned, in words", "[SSL]\n" + three + "LimitDevAccess = yes\n", []section{pin(ssl)}, ""},
		{"not told whether pinned", "[SSL]\n" + three, []section{ssl}, ""},
		{"two sections, with the line ends of another system", strings.ReplaceAll("[SSL]\n"+three+"[SHIM]\n"+three, "\n", "\r\n"), []section{ssl, {Name: "SHIM", Processes: 2, Cy: 1}}, ""},
		{"a section whose name has a dot inherits nothing", "[SSL]\n" + three + "[SSL.1]\nNumProcesses = 1\n", []section{ssl, {Name: "SSL.1", Broken: "NumberCyInstances is missing"}}, ""},
		{"no process", "[SSL]\nNumProcesses = 0\nNumberCyInstances = 1\nNumberDcInstances = 0\n", []section{{Name: "SSL", Cy: 1}}, ""},
		{"only what is for the kernel", "[GENERAL]\n[KERNEL]\n", nil, ""},
		{"the same key twice, with one value", "[SSL]\nNumProcesses = 2\n" + three, []section{ssl}, ""},
		{"a value that names another key", "[SSL]\nX = 2\nNumProcesses = %(X)s\nNumberCyInstances = 1\n", broken(`NumProcesses is "%(X)s": allowed is a number of 0 to 4096`), ""},

		{"a key is missing", "[SSL]\nNumProcesses = 2\nNumberCyInstances = 1\n", broken("NumberDcInstances is missing"), ""},
		{"a value is empty", "[SSL]\nNumProcesses =\nNumberCyInstances = 1\n", broken(`NumProcesses is "": allowed is a number of 0 to 4096`), ""},
		{"a value is no number", "[SSL]\nNumProcesses = two\n", broken(`NumProcesses is "two": allowed is a number of 0 to 4096`), ""},
		{"a number below nothing", "[SSL]\nNumProcesses = 2\nNumberCyInstances = -1\n", broken(`NumberCyInstances is "-1": allowed is a number of 0 to 4096`), ""},
		{"more processes than any device serves", "[SSL]\nNumProcesses = 1000000\n", broken(`NumProcesses is "1000000": allowed is a number of 0 to 4096`), ""},
		{"a key with two values", "[SSL]\n" + three + "NumProcesses = 3\n", broken("NumProcesses is there with different values"), ""},
		{"a switch that is none", "[SSL]\n" + three + "LimitDevAccess = maybe\n", broken(`LimitDevAccess is "maybe": allowed is 0 or 1`), ""},
		{"two sections of one name", "[SSL]\n" + three + "[SSL]\n" + three, broken("the section is there more than once"), ""},
		{"a name that no environment can hold", "[S\x01]\n" + three, []section{{Name: "S\x01", Broken: `the name "S\x01" has a character that is not allowed`}}, ""},

		{"an empty file", " \n", nil, "the file is empty"},
		{"a section that is not closed", "[SSL\n" + three, nil, "unclosed section: [SSL"},
		{"a section without a name", "[]\n" + three, nil, "empty section name"},
		{"a line that is no INI", "[SSL]\nNumProcesses\n", nil, "key-value delimiter not found: NumProcesses"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseConfig([]byte(tt.text))
			if tt.err != "" {
				if err == nil || err.Error() != tt.err {
					t.Errorf("error %v, want %s", err, tt.err)
				}
				return
			}
			must(t, err)
			if diff := cmp.Diff(tt.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

func TestAFileThatCannotBeReadIsAnErrorThatNamesIt(t *testing.T) {
	dir := t.TempDir()
	must(t, os.Mkdir(filepath.Join(dir, "directory"), 0o755))
	must(t, syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "large"), make([]byte, maxConfig+1), 0o600))
	must(t, os.WriteFile(filepath.Join(dir, "broken"), []byte("[SSL"), 0o600))
	for name, part := range map[string]string{"none": "no such file", "directory": "not a regular file", "fifo": "not a regular file", "large": "more than 1048576 bytes", "broken": "unclosed section"} {
		_, err := readConfig(filepath.Join(dir, name))
		if err == nil || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), filepath.Join(dir, name)) {
			t.Errorf("%s: error %v, want one that names the file and says %q", name, err, part)
		}
	}
}

// Whatever is in a file: each section has a name of its own, and is either broken, with a reason, or makes units that a Tree takes.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte("[GENERAL]\nA = 1\n[SSL]\nNumProcesses = 2\nNumberCyInstances = 1\nNumberDcInstances = 0\nLimitDevAccess = 1\n"))
	f.Add([]byte("[SSL]\nNumProcesses = 1\nNumProcesses = 1\nNumberCyInstances = 0x1\nNumberDcInstances = %(x)s\n[SSL]\n- = 1\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		sections, err := parseConfig(text)
		if err != nil {
			return
		}
		d := &function{instance: instance{Type: "c6xx", State: "up"}, UIO: []string{"uio0"}, Sections: sections}
		_, left := place(&devtree.Tree{}, &sight{devices: []*function{d}})
		broken := 0
		for _, s := range sections {
			if s.Broken != "" {
				broken++
			}
		}
		if len(left) != broken {
			t.Errorf("%d sections are broken, and left out are %v", broken, left)
		}
	})
}
