// SPDX-License-Identifier: Apache-2.0

package browser

import (
	"bytes"
	"cmp"
	"fmt"
	"image"
	"image/color"
	"image/png"
	"maps"
	"math"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/page"

	"qatplugin/internal/lookalike"
)

// maxImage is the largest size of an image in bytes, so that a page of docs loads fast.
const maxImage = 150_000

// newScene returns a rig whose host has four PFs and some broken things: a PF without a heartbeat,
// two VFs that cannot be bound, and one that belongs to another driver.
func newScene(t testing.TB) *rig {
	r := newRig(t, "-health-interval=1s", "-telemetry")
	r.addPF(lookalike.PF{Address: "0000:6b:00.0", Services: "sym;asym", NUMANode: 0})
	r.addPF(lookalike.PF{Address: "0000:70:00.0", Services: "dc", NUMANode: 0})
	r.addPF(lookalike.PF{Address: "0000:e8:00.0", Services: "sym;asym", NUMANode: 1})
	r.addPF(lookalike.PF{Address: "0000:ed:00.0", Services: "dc", NUMANode: 1})
	r.must(r.host.LoadDriver("igb_uio"))
	r.must(r.host.Bind("0000:ed:00.7", "igb_uio"))
	for _, vf := range []string{"0000:70:00.4", "0000:ed:01.2"} {
		r.host.FailBind(vf, syscall.EINVAL)
	}
	r.servePods(
		holder{"payments/tls-proxy-6c9d8", "qat.intel.com/cy", []string{"0000:6b:00.1", "0000:6b:00.2"}},
		holder{"payments/tls-proxy-x7k2p", "qat.intel.com/cy", []string{"0000:6b:00.4", "0000:6b:00.5"}},
		holder{"edge/ingress-0", "qat.intel.com/cy", []string{"0000:6b:01.1", "0000:6b:01.4", "0000:e8:00.3"}},
		holder{"storage/backup-28471", "qat.intel.com/dc", []string{"0000:70:00.1", "0000:70:01.0", "0000:ed:00.2"}},
	)
	return r
}

// live lets the devices work, VFs go and come back, and pods start, for so many seconds.
func (r *rig) live(seconds int) {
	r.t.Helper()
	for second := range seconds {
		r.work(second)
		vf := fmt.Sprintf("0000:6b:01.%d", 5+second%3)
		switch second % 5 {
		case 1:
			r.must(r.host.RemoveVF(vf))
			time.Sleep(300 * time.Millisecond)
			r.must(r.host.AddVF(lookalike.VF{Address: vf, PF: "0000:6b:00.0"}))
			time.Sleep(700 * time.Millisecond)
		case 3:
			device := fmt.Sprintf("0000:6b:00.%d", 1+second/5%2)
			_, err := r.kubelet.Allocate(r.t.Context(), "qat.intel.com/cy", []string{device})
			r.must(err)
			time.Sleep(time.Second)
		default:
			time.Sleep(time.Second)
		}
	}
}

// work makes the devices work for a second: cryptography on two PFs, compression on the others.
func (r *rig) work(second int) {
	r.t.Helper()
	wave := func(base, height, period, shift float64) uint64 {
		return uint64(base + height*math.Sin(2*math.Pi*(float64(second)/period+shift)))
	}
	cy, dc := map[string]uint64{"bw_in": 18_000, "bw_out": 17_500}, map[string]uint64{"bw_in": 31_000, "bw_out": 12_000}
	set := func(values map[string]uint64, slice string, slices int, percent uint64) {
		for i := range slices {
			values[fmt.Sprint("util_", slice, i)] = percent
		}
	}
	set(cy, "pke", 6, wave(66, 14, 40, 0))
	set(cy, "ucs", 4, wave(34, 4, 11, 0.3))
	set(cy, "cph", 4, wave(10, 3, 23, 0.5))
	set(dc, "cpr", 1, wave(86, 9, 17, 0.2))
	set(dc, "dcpr", 2, wave(48, 10, 31, 0.7))
	for pf, values := range map[string]map[string]uint64{
		"0000:6b:00.0": cy, "0000:70:00.0": dc, "0000:e8:00.0": cy, "0000:ed:00.0": dc,
	} {
		r.must(r.host.SetTelemetry(pf, values))
	}
}

func TestScreenshots(t *testing.T) {
	dir, seconds := *images, 50 // the plots show a minute
	if dir != "" && chromium == nil {
		t.Fatal("no chromium: install Debian's packages chromium and fonts-inter")
	} else if dir == "" {
		dir, seconds = t.TempDir(), 3
	}
	r := newScene(t)
	r.start()
	// In a window of this height, the columns of the page end at the same height.
	day := look{width: 1440, height: 1050, scale: 1}
	night := day
	night.dark = true
	shots := []struct {
		name   string
		look   look
		height int64 // of the image; 0: that of the page
		vf     string
	}{
		{"light", day, 0, "0000:ed:00.7"},
		{"dark", night, 0, "0000:e8:00.3"},
		{"phone", look{width: 390, height: 844, scale: 2, touch: true}, 1600, ""},
	}
	var tabs []*tab
	for _, s := range shots {
		s.look.still = true
		p := open(t, r.url(), s.look)
		p.waitCount("#map .cell", 64)
		tabs = append(tabs, p)
	}
	r.failHeartbeats("0000:e8:00.0", func() bool {
		return eval[int](tabs[0], "document.querySelectorAll('#map .cell[data-state=unhealthy]').length") == 16
	})
	r.live(seconds)
	for i, s := range shots {
		p := tabs[i]
		p.waitCount("#map .cell[data-state=skipped]", 3)
		p.waitCount("#map .cell[data-state=used]", 9)
		p.wait("document.querySelector('#utilization .line') && document.querySelector('#latency .dot')")
		if s.vf != "" {
			p.click(cell(s.vf))
			p.run(`document.activeElement.blur(); scrollTo(0, 0);
				for (const button of document.querySelectorAll("#kinds button")) {
					if (button.textContent !== "Kernel") button.click();
				}`)
			p.wait("document.querySelectorAll('#events li').length > 1")
		}
		file := filepath.Join(dir, "status-"+s.name+".png")
		size, err := writePNG(file, p.screenshot(s.look, s.height))
		if err != nil {
			t.Fatal(err)
		}
		if size > maxImage {
			t.Errorf("%s: %d bytes, the limit is %d", file, size, maxImage)
		}
	}
}

// minDistance is the distance of two colours that the eye tells apart in an image.
const minDistance = 10

// distance returns the distance of two colours, from 0 to 441.
func distance(a, b color.RGBA) float64 {
	r, g, bl := float64(a.R)-float64(b.R), float64(a.G)-float64(b.G), float64(a.B)-float64(b.B)
	return math.Sqrt(r*r + g*g + bl*bl)
}

// screenshot returns an image of the page from its top, with the height or as a whole.
func (p *tab) screenshot(l look, height int64) []byte {
	p.t.Helper()
	if height == 0 {
		height = eval[int64](p, "document.scrollingElement.scrollHeight")
	}
	yes := true
	shot := call(p, page.CaptureScreenshot, page.CaptureScreenshotParams{
		Clip:                  &page.Viewport{Width: float64(l.width), Height: float64(height), Scale: 1},
		CaptureBeyondViewport: &yes,
	})
	return shot.Data
}

// writePNG writes an image with at most 256 colours, and returns the size of the file.
func writePNG(file string, data []byte) (size int, err error) {
	full, err := png.Decode(bytes.NewReader(data))
	if err != nil {
		return 0, err
	}
	var out bytes.Buffer
	encoder := png.Encoder{CompressionLevel: png.BestCompression}
	if err := encoder.Encode(&out, reduceColours(full)); err != nil {
		return 0, err
	}
	return out.Len(), os.WriteFile(file, out.Bytes(), 0o644)
}

// reduceColours returns the image with 256 of its colours: the most frequent ones that differ
// enough from one another. Others, such as those of the edges of letters, become the nearest one.
func reduceColours(full image.Image) image.Image {
	bounds := full.Bounds()
	count := map[color.RGBA]int{}
	at := func(x, y int) color.RGBA {
		r, g, b, _ := full.At(x, y).RGBA()
		return color.RGBA{uint8(r >> 8), uint8(g >> 8), uint8(b >> 8), 255}
	}
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			count[at(x, y)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		return cmp.Or(
			cmp.Compare(count[b], count[a]),
			cmp.Compare(a.R, b.R), cmp.Compare(a.G, b.G), cmp.Compare(a.B, b.B),
		)
	})
	var palette color.Palette
	for _, c := range colours {
		if len(palette) == 256 {
			break
		}
		if len(palette) == 0 || distance(c, palette.Convert(c).(color.RGBA)) > minDistance {
			palette = append(palette, c)
		}
	}
	index := map[color.RGBA]uint8{}
	for c := range count {
		index[c] = uint8(palette.Index(c))
	}
	reduced := image.NewPaletted(bounds, palette)
	for y := bounds.Min.Y; y < bounds.Max.Y; y++ {
		for x := bounds.Min.X; x < bounds.Max.X; x++ {
			reduced.SetColorIndex(x, y, index[at(x, y)])
		}
	}
	return reduced
}
