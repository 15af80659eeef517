// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"context"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	"github.com/chromedp/cdproto/input"
	"github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"

	"qatplugin/internal/testenv"
)

// waitTimeout is how long the page may take for a change on a busy machine.
const waitTimeout = 20 * time.Second

// A tab is a page in the browser.
type tab struct {
	t   testing.TB
	ctx context.Context

	mu          sync.Mutex // guards the following fields
	errors      []string   // of the console, and requests to other servers
	networkFine bool       // failed requests are no errors
}

// A look is how a tab shows the page.
type look struct {
	width, height int64
	scale         float64
	dark, touch   bool
	still         bool // prefers-reduced-motion
}

var desktop = look{width: 1440, height: 900, scale: 1}
var phone = look{width: 360, height: 740, scale: 1, touch: true}

// open opens a page in a new tab, until the test ends. The test fails if the console of the tab has
// an error, or if the page asks another server.
func open(t testing.TB, address string, l look) *tab {
	t.Helper()
	if chromium == nil {
		testenv.Skip(t, "no chromium: install Debian's package chromium")
	}
	ctx, closeTab := chromedp.NewContext(chromium, chromedp.WithNewBrowserContext())
	p := &tab{t: t, ctx: ctx}
	t.Cleanup(func() {
		closeTab()
		p.mu.Lock()
		defer p.mu.Unlock()
		for _, text := range p.errors {
			t.Error(text)
		}
	})
	server, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	if err := chromedp.Listen(ctx, func(event any) { p.listen(event, server.Host) }); err != nil {
		t.Fatal(err)
	}
	scheme, motion := "light", "no-preference"
	if l.dark {
		scheme = "dark"
	}
	if l.still {
		motion = "reduce"
	}
	call(p, network.Enable, network.EnableParams{})
	call(p, log.Enable, cdp.Empty{})
	call(p, runtime.Enable, cdp.Empty{})
	call(p, emulation.SetTimezoneOverride, emulation.SetTimezoneOverrideParams{TimezoneID: "UTC"})
	call(p, emulation.SetDeviceMetricsOverride, emulation.SetDeviceMetricsOverrideParams{
		Width: l.width, Height: l.height, DeviceScaleFactor: l.scale, Mobile: l.touch,
	})
	call(p, emulation.SetTouchEmulationEnabled, emulation.SetTouchEmulationEnabledParams{Enabled: l.touch})
	call(p, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: []*emulation.MediaFeature{
		{Name: "prefers-color-scheme", Value: scheme}, {Name: "prefers-reduced-motion", Value: motion},
	}})
	run(p, chromedp.Navigate(address))
	return p
}

// listen records what is wrong in a page of the server host.
func (p *tab) listen(event any, host string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch e := event.(type) {
	case *runtime.EventExceptionThrown:
		text := e.ExceptionDetails.Text
		if e.ExceptionDetails.Exception != nil {
			text += " " + e.ExceptionDetails.Exception.Description
		}
		p.errors = append(p.errors, "exception: "+text)
	case *runtime.EventConsoleAPICalled:
		var text strings.Builder
		for _, arg := range e.Args {
			fmt.Fprintf(&text, " %s%s", arg.Value, arg.Description)
		}
		p.errors = append(p.errors, fmt.Sprintf("console.%s:%s", e.Type, &text))
	case *log.EventEntryAdded:
		if p.networkFine && e.Entry.Source == "network" {
			return
		}
		p.errors = append(p.errors, fmt.Sprintf("log of %s: %s: %s", e.Entry.Source, e.Entry.Level, e.Entry.Text))
	case *network.EventRequestWillBeSent:
		u, err := url.Parse(e.Request.URL)
		if err != nil || u.Scheme != "data" && u.Host != host {
			p.errors = append(p.errors, "request to another server: "+e.Request.URL)
		}
	}
}

// allowFailedRequests makes failed requests no errors.
func (p *tab) allowFailedRequests() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.networkFine = true
}

// run runs an action of chromedp in the tab.
func run[T any](p *tab, action chromedp.Action[T]) T {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.ctx, time.Minute)
	defer cancel()
	value, err := chromedp.Run(ctx, action)
	if err != nil {
		p.t.Fatal(err)
	}
	return value
}

// call calls a command of the DevTools protocol.
func call[P, R any](p *tab, command cdp.Command[P, R], params P) R {
	p.t.Helper()
	result, err := chromedp.Call(p.ctx, command, params)
	if err != nil {
		p.t.Fatal(err)
	}
	return result
}

// eval returns the value of an expression in the page. It waits for a promise.
func eval[T any](p *tab, expression string) T {
	p.t.Helper()
	return run(p, chromedp.Evaluate[T](expression, chromedp.EvalAwaitPromise))
}

// run runs statements in the page.
func (p *tab) run(statements string) {
	p.t.Helper()
	eval[bool](p, "(() => { "+statements+"; return true; })()")
}

// fill writes a text into an input, as a user does.
func (p *tab) fill(selector, text string) {
	p.t.Helper()
	p.run(fmt.Sprintf(`const input = document.querySelector(%q);
		input.value = %q;
		input.dispatchEvent(new Event("input", { bubbles: true }))`, selector, text))
}

// forget forgets errors that the test has caused itself.
func (p *tab) forget(part string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.errors = slices.DeleteFunc(p.errors, func(text string) bool { return strings.Contains(text, part) })
}

// wait waits until an expression is true in the page.
func (p *tab) wait(expression string) {
	p.t.Helper()
	ok := eval[bool](p, fmt.Sprintf(`new Promise((resolve) => {
		const deadline = performance.now() + %d;
		const check = () => {
			let value = false;
			try { value = %s; } catch {}
			if (value) resolve(true);
			else if (performance.now() > deadline) resolve(false);
			else setTimeout(check, 10);
		};
		check();
	})`, waitTimeout.Milliseconds(), expression))
	if !ok {
		p.t.Fatalf("not true within %s: %s\nthe page:\n%s", waitTimeout, expression,
			eval[string](p, `document.body.innerText`))
	}
}

// waitText waits until the element that a selector finds has a text.
func (p *tab) waitText(selector, text string) {
	p.t.Helper()
	p.wait(fmt.Sprintf("document.querySelector(%q).innerText === %q", selector, text))
}

// waitCount waits until a selector finds n elements.
func (p *tab) waitCount(selector string, n int) {
	p.t.Helper()
	p.wait(fmt.Sprintf("document.querySelectorAll(%q).length === %d", selector, n))
}

func (p *tab) click(selector string) {
	p.t.Helper()
	p.run(fmt.Sprintf("document.querySelector(%q).click()", selector))
}

// text returns the text of the element that a selector finds.
func (p *tab) text(selector string) string {
	p.t.Helper()
	return eval[string](p, fmt.Sprintf("document.querySelector(%q).innerText", selector))
}

// press presses keys, named as in KeyboardEvent.key, one after the other in what has the focus.
func (p *tab) press(keys ...string) {
	p.t.Helper()
	for _, key := range keys {
		// A listener that prevents the default of the key must prevent the character too. It cannot
		// if that is an event of its own, as chromedp.KeyEvent sends it.
		down := input.DispatchKeyEventParams{
			Type: input.DispatchKeyEventTypeRawKeyDown, Key: key, Code: key, WindowsVirtualKeyCode: keyCodes[key],
		}
		if key == "Enter" {
			down.Type, down.Text = input.DispatchKeyEventTypeKeyDown, "\r"
		}
		up := down
		up.Type, up.Text = input.DispatchKeyEventTypeKeyUp, ""
		call(p, input.DispatchKeyEvent, down)
		call(p, input.DispatchKeyEvent, up)
	}
}

// keyCodes has the Windows codes of the keys, by which Chromium recognizes them.
var keyCodes = map[string]int64{
	"Tab": 9, "Enter": 13, "Escape": 27, "End": 35, "Home": 36,
	"ArrowLeft": 37, "ArrowUp": 38, "ArrowRight": 39, "ArrowDown": 40,
}

// cell is the selector of a VF in the map.
func cell(address string) string { return fmt.Sprintf("[data-vf='%s']", address) }
