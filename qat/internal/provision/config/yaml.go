// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v4"

	"qatplugin/qat/internal/device"
	"qatplugin/qat/internal/pci"
)

// parseYAML returns the rules of a YAML file.
func parseYAML(file, text, dpdkDriver string) ([]rule, error) {
	p := &parser{mistakes: newMistakes(file, text), dpdkDriver: dpdkDriver}
	if len(p.list) > 0 {
		return nil, p.err()
	}
	if root := p.document(text); root != nil {
		p.mapping(root, "the file", true, []key{{"rules", func(n *yaml.Node) {
			for _, item := range p.items(n, "rules", "a list of rules", true) {
				p.rule(item)
			}
		}}})
	}
	return p.rules, p.err()
}

// A parser collects the rules of a YAML file, and its mistakes. Its methods that return a value
// return the zero value for a node with a mistake.
type parser struct {
	mistakes
	dpdkDriver string
	rules      []rule
}

// document returns the root of the only document of a file, or nil if there is a mistake.
func (p *parser) document(text string) *yaml.Node {
	decoder := yaml.NewDecoder(strings.NewReader(text))
	var document, second yaml.Node
	err := decoder.Decode(&document)
	if errors.Is(err, io.EOF) {
		p.addf(1, "the file is empty: rules is missing")
		return nil
	}
	if err == nil {
		err = decoder.Decode(&second)
		if err == nil {
			p.addf(second.Line, "a second YAML document: must be one document")
			return nil
		}
	}
	if !errors.Is(err, io.EOF) {
		line, cause := locate(err)
		p.addf(line, "%s", cause)
		return nil
	}
	if p.checkAnchors(&document); len(p.list) > 0 {
		return nil
	}
	return document.Content[0]
}

// locate returns the line and the cause of a syntax error.
func locate(err error) (line int, cause string) {
	var syntax *yaml.LoadError
	if !errors.As(err, &syntax) {
		return 1, err.Error()
	}
	line, cause = max(syntax.Mark.Line, 1), syntax.Message // 0 is unknown
	if start := syntax.ContextMark.Line; start != 0 && start < line {
		cause += fmt.Sprintf(" (%s from line %d)", syntax.ContextMsg, start)
	}
	return line, cause
}

// checkAnchors adds a mistake for each anchor and alias. They would hide what a rule does, and an
// alias can contain itself.
func (p *parser) checkAnchors(n *yaml.Node) {
	switch {
	case n.Kind == yaml.AliasNode:
		p.addf(n.Line, "alias *%s: anchors and aliases are not supported", n.Value)
	case n.Anchor != "":
		p.addf(n.Line, "anchor &%s: anchors and aliases are not supported", n.Anchor)
	}
	for _, child := range n.Content {
		p.checkAnchors(child)
	}
}

// A setting is a key of a rule that only families with services have.
type setting struct {
	name string
	line int
}

func (p *parser) rule(n *yaml.Node) {
	r := rule{source: filepath.Base(p.file) + ":" + strconv.Itoa(n.Line)}
	var settings []setting
	p.mapping(n, "a rule", false, []key{
		{"name", func(n *yaml.Node) {
			if name := p.text(n, "name", "a text", nil); name != "" {
				r.source += " " + quote(name)
			}
		}},
		{"match", func(n *yaml.Node) { p.match(n, &r) }},
		{"services", func(n *yaml.Node) {
			settings = append(settings, setting{"services", n.Line})
			r.desired.Services = p.services(n)
		}},
		{"vfs", func(n *yaml.Node) { r.desired.VFs = p.vfs(n) }},
		{"autoReset", func(n *yaml.Node) {
			settings = append(settings, setting{"autoReset", n.Line})
			r.desired.AutoReset = p.boolean(n, "autoReset")
		}},
		{"pmIdle", func(n *yaml.Node) {
			settings = append(settings, setting{"pmIdle", n.Line})
			r.desired.PMIdle = p.boolean(n, "pmIdle")
		}},
		{"driver", func(n *yaml.Node) { r.desired.Driver = p.driver(n) }},
	})
	p.combination(&r, settings)
	p.rules = append(p.rules, r)
}

// combination checks whether the families that a rule can match accept its settings.
func (p *parser) combination(r *rule, settings []setting) {
	if slices.Contains(r.families, "") {
		return // which families is unknown
	}
	var named []*device.Family // in the rule
	for _, f := range device.Families() {
		if slices.Contains(r.families, f.ConfigName()) {
			named = append(named, f)
		}
	}
	hasServices := func(f *device.Family) bool { return f.Services }
	available := len(named) == 0 || slices.ContainsFunc(named, hasServices)
	for _, s := range settings {
		switch {
		case !available:
			p.addf(s.line, "%s: not available on %s: must be left out, or the rule must match one of %s",
				s.name, strings.Join(r.families, ", "), strings.Join(familyNames(hasServices), ", "))
		case s.name == "services" && r.desired.Services != nil:
			if err := checkServices(r.desired.Services, named); err != nil {
				p.addf(s.line, "services: %s", err)
			}
		}
	}
}

// checkServices reports why one of the families in a rule does not accept the services. Families
// without configurable services do not count, because services do not apply to them. For a rule
// without families, checkServices reports why no family accepts the services.
func checkServices(services []string, named []*device.Family) (err error) {
	for _, f := range named {
		if !f.Services {
			continue
		}
		if err := f.CheckServices(services); err != nil {
			return err
		}
	}
	if len(named) > 0 {
		return nil
	}
	for _, f := range device.Families() {
		if err = f.CheckServices(services); err == nil {
			return nil
		}
	}
	return err // of the newest family, which accepts most
}

// familyNames returns the names of the families that a function selects, each once.
func familyNames(selects func(*device.Family) bool) (names []string) {
	for _, f := range device.Families() {
		if selects(f) && !slices.Contains(names, f.ConfigName()) {
			names = append(names, f.ConfigName())
		}
	}
	return names
}

func (p *parser) match(n *yaml.Node, r *rule) {
	p.mapping(n, "match", false, []key{
		{"pfs", func(n *yaml.Node) {
			for _, item := range p.items(n, "match.pfs", "a list of PCI addresses or ranges", false) {
				r.pfs = append(r.pfs, p.addresses(item))
			}
		}},
		{"numaNodes", func(n *yaml.Node) {
			for _, item := range p.items(n, "match.numaNodes", "a list of numbers", false) {
				r.numaNodes = append(r.numaNodes, p.numaNode(item))
			}
		}},
		{"families", func(n *yaml.Node) {
			all := familyNames(func(*device.Family) bool { return true })
			for _, item := range p.items(n, "match.families", "a list of families", false) {
				r.families = append(r.families, p.text(item, "match.families", "one of "+strings.Join(all, ", "), all))
			}
		}},
	})
}

func (p *parser) addresses(n *yaml.Node) (a addressRange) {
	const expected = `a PCI address such as 0000:6b:00.0, or two of them as in 0000:70:00.0-0000:85:00.0`
	text := p.text(n, "match.pfs", expected, nil)
	if text == "" {
		return a
	}
	first, last, isRange := strings.Cut(text, "-")
	if !isRange {
		last = first
	}
	var ok, ok2 bool
	a.first, ok = pci.Parse(first)
	a.last, ok2 = pci.Parse(last)
	switch {
	case !ok || !ok2:
		p.invalid(n, "match.pfs", expected)
	case a.last.Compare(a.first) < 0:
		p.invalid(n, "match.pfs", "a range from the lower to the higher address")
	}
	return a
}

func (p *parser) numaNode(n *yaml.Node) (node int) {
	if n.ShortTag() != "!!int" || n.Decode(&node) != nil || node < 0 {
		p.invalid(n, "match.numaNodes", "a number from 0 up")
	}
	return node
}

// services returns nil if the list or a service is invalid.
func (p *parser) services(n *yaml.Node) (services []string) {
	all := device.ServiceNames()
	before := len(p.list)
	for _, item := range p.items(n, "services", "a list of services ("+strings.Join(all, ", ")+")", false) {
		service := p.text(item, "services", "one of "+strings.Join(all, ", "), all)
		if service != "" && slices.Contains(services, service) {
			p.addf(item.Line, "services: %s occurs more than once", quote(service))
		}
		services = append(services, service)
	}
	if len(p.list) > before {
		return nil
	}
	return services
}

func (p *parser) vfs(n *yaml.Node) VFs {
	zero := -1
	switch {
	case n.ShortTag() == "!!str" && n.Value == "all":
		return All
	case n.ShortTag() == "!!int" && n.Decode(&zero) == nil && zero == 0:
		return None
	}
	p.invalid(n, "vfs", "all or 0")
	return LeaveAlone
}

func (p *parser) boolean(n *yaml.Node, name string) *bool {
	value := new(bool)
	if n.ShortTag() != "!!bool" || n.Decode(value) != nil {
		p.invalid(n, name, "true or false")
	}
	return value
}

func (p *parser) driver(n *yaml.Node) string {
	allowed := []string{p.dpdkDriver, DriverKernel}
	driver := p.text(n, "driver", p.dpdkDriver+" (the value of -dpdk-driver) or "+DriverKernel, allowed)
	if driver == p.dpdkDriver {
		return ""
	}
	return driver
}

// A key is an allowed key of a mapping, and the function that parses its value.
type key struct {
	name  string
	parse func(value *yaml.Node)
}

// mapping parses a mapping with the keys, all of which are required or optional.
func (p *parser) mapping(n *yaml.Node, what string, required bool, keys []key) {
	var names []string
	for _, k := range keys {
		names = append(names, k.name)
	}
	if n.Kind != yaml.MappingNode || n.ShortTag() != "!!map" {
		p.invalid(n, what, "a mapping with "+oneOf(names))
		return
	}
	lines := map[string]int{} // of the keys
	for i := 0; i < len(n.Content); i += 2 {
		name, value := n.Content[i], n.Content[i+1]
		at := slices.Index(names, name.Value)
		if at < 0 || name.ShortTag() != "!!str" {
			p.addf(name.Line, "%s: unknown key %s: must be %s", what, describe(name), oneOf(names))
			continue
		}
		if first, again := lines[name.Value]; again {
			p.addf(name.Line, "%s: key %q occurs more than once, first in line %d", what, name.Value, first)
			continue
		}
		lines[name.Value] = name.Line
		keys[at].parse(value)
	}
	for _, name := range names {
		if required && lines[name] == 0 {
			p.addf(n.Line, "%s: key %q is missing", what, name)
		}
	}
}

// items returns the items of a list.
func (p *parser) items(n *yaml.Node, name, expected string, canBeEmpty bool) []*yaml.Node {
	if n.Kind != yaml.SequenceNode || n.ShortTag() != "!!seq" {
		p.invalid(n, name, expected)
		return nil
	}
	if len(n.Content) == 0 && !canBeEmpty {
		p.addf(n.Line, "%s: the list is empty: must be left out or have an item", name)
	}
	return n.Content
}

// text returns a text that is not empty and is one of the allowed ones, or any if allowed is nil.
func (p *parser) text(n *yaml.Node, name, expected string, allowed []string) string {
	if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!str" || n.Value == "" ||
		allowed != nil && !slices.Contains(allowed, n.Value) {
		p.invalid(n, name, expected)
		return ""
	}
	return n.Value
}

func (p *parser) invalid(n *yaml.Node, name, expected string) {
	p.addf(n.Line, "%s: invalid value %s: must be %s", name, describe(n), expected)
}

// describe returns a node as an error shows it. A text is quoted, to tell it from another type.
func describe(n *yaml.Node) string {
	switch {
	case n.Kind == yaml.MappingNode:
		return "(a mapping)"
	case n.Kind == yaml.SequenceNode:
		return "(a list)"
	case n.ShortTag() == "!!null":
		return "(nothing)"
	case n.ShortTag() == "!!str":
		return quote(n.Value)
	}
	return fmt.Sprintf("%s (%s)", strings.Trim(quote(n.Value), `"`), n.ShortTag())
}
