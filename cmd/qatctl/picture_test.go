// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"html"
	"strings"
	"unicode/utf8"
)

// Sizes of the picture of a terminal, in pixels.
const (
	charWidth  = 8
	lineHeight = 18
	margin     = 16
)

// spaces makes SVG keep spaces that follow one another.
var spaces = strings.NewReplacer(" ", "\u00a0")

// picture returns an SVG of a terminal that shows a text with colours.
func picture(text string) string {
	styles := map[string]string{
		string(bold): `font-weight="bold"`, string(faint): `opacity="0.6"`, string(red): `fill="#ff7b72"`,
		string(green): `fill="#7ee787"`, string(yellow): `fill="#e3b341"`,
	}
	lines := strings.Split(strings.TrimRight(text, "\n"), "\n")
	columns := 0
	var body strings.Builder
	for i, line := range lines {
		fmt.Fprintf(&body, `<text x="%d" y="%d">`, margin, margin+(i+1)*lineHeight-5)
		width := 0
		for n, part := range strings.Split(line, "\x1b[") {
			style := ""
			if n > 0 {
				code, rest, _ := strings.Cut(part, "m")
				style, part = styles["\x1b["+code+"m"], rest
			}
			width += utf8.RuneCountInString(part)
			if part != "" {
				fmt.Fprintf(&body, "<tspan %s>%s</tspan>", style, spaces.Replace(html.EscapeString(part)))
			}
		}
		body.WriteString("</text>\n")
		columns = max(columns, width)
	}
	w, h := columns*charWidth+2*margin, len(lines)*lineHeight+2*margin
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" viewBox="0 0 %[1]d %[2]d" `+
		`font-family="ui-monospace, DejaVu Sans Mono, monospace" font-size="%.1f" fill="#e6edf3">
<rect width="100%%" height="100%%" rx="8" fill="#0d1117"/>
%s</svg>
`, w, h, charWidth/0.6, body.String())
}
