// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"go.uber.org/goleak"
)

var (
	// chromium is the browser of all tests, or nil. TestMain sets it.
	chromium context.Context

	// workDir holds the browser's profile and the plugin. TestMain creates and removes it.
	workDir string
)

var images = flag.String("images", "", "directory to which TestScreenshots writes; empty: a temporary one")

func TestMain(m *testing.M) {
	flag.Parse()
	var err error
	stop := func() {}
	if workDir, err = os.MkdirTemp("", "qat-browser-"); err == nil {
		stop, err = startChromium()
	}
	if err != nil {
		_, _ = fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	goleak.VerifyTestMain(m, goleak.IgnoreCurrent(), goleak.Cleanup(func(code int) {
		stop()
		_ = os.RemoveAll(workDir)
		os.Exit(code)
	}))
}

// startChromium starts Chromium if this machine has it.
func startChromium() (stop func(), err error) {
	path, err := exec.LookPath("chromium")
	if err != nil {
		return func() {}, nil
	}
	allocator, stopAllocator := chromedp.NewExecAllocator(context.Background(),
		chromedp.ExecPath(path), chromedp.UserDataDir(filepath.Join(workDir, "profile")),
		chromedp.Headless, chromedp.NoSandbox, chromedp.DisableGPU, chromedp.NoFirstRun,
		chromedp.Flag("disable-quic", true), chromedp.Flag("disable-background-networking", true),
		chromedp.Flag("disable-component-update", true), chromedp.Flag("disable-sync", true),
		chromedp.Flag("disable-dev-shm-usage", true), chromedp.Flag("hide-scrollbars", true),
		chromedp.Flag("host-resolver-rules", "MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"),
		chromedp.WSURLReadTimeout(time.Minute),
	)
	browser, _ := chromedp.NewContext(allocator)
	stop = func() {
		_ = chromedp.Cancel(browser)
		stopAllocator()
	}
	if err := chromedp.Do(browser); err != nil {
		stop()
		return nil, fmt.Errorf("start %s: %w", path, err)
	}
	chromium = browser
	return stop, nil
}
