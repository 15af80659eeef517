// Package kubeletapi tells the kubelet of a device plugin's devices, through the device plugin API v1beta1.
//
// The author of a plugin writes one method, [Plugin.Watch], which publishes a new [devtree.Tree] whenever the devices changed. A
// [Manager] does the rest: one gRPC server and socket for each resource, registration, ListAndWatch and Allocate. Where a loop that looks at
// everything from time to time is there already, [FromScanner] makes a Plugin of it. docs/writing-a-plugin.md is the guide.
//
// A plugin that has more to say has one of the optional interfaces too, which are found by themselves: [Allocator], [PostAllocator],
// [PreferredAllocator], [ContainerPreStarter]. Their errors refuse the kubelet's request. With [WithCDI] devices are also devices of the
// Container Device Interface.
//
// # Guarantees
//
// The kubelet holds the newest list. A change goes out at once, with no timer in between. While a list is being sent, changes
// that follow become one list, the newest; it is never skipped. A list that would say the same to the kubelet as the one before
// it on the same stream is not sent. Each stream belongs to the call that opened it: several at once all get everything, and
// one that does not read delays only itself.
//
// A resource is served and registered from the first Tree that has it, for as long as Run runs: one that lost its devices stays
// registered with an empty list.
//
// Its socket is there while kubelet.sock is: without a kubelet there is nobody to connect to it, and the next kubelet deletes it first.
//
// A Tree that was published is never waited for: publish returns at once, whatever the kubelet, a stream or the CDI directory do.
//
// Allocate answers from the newest Tree, all or nothing: an unknown device is codes.NotFound, an unhealthy one
// codes.FailedPrecondition with its reason. An error of the plugin that is no gRPC status is codes.Unknown.
//
// The kubelet may come, go, hang, refuse, or delete our sockets, and its directory may be removed and made anew, at any time and in any
// order: the Manager looks at what is there and goes on from that. A kubelet's restart is seen by kubelet.sock becoming another file;
// every resource is then registered anew at once. A registration counts for as long as the kubelet follows the list: when its
// stream ends, the resource is registered again. A failed registration is repeated with a growing pause.
//
// A socket of ours that another process serves is an error that is logged and repeated rarely; the socket is left alone, and taken
// over when that process is gone. Two Managers of one namespace never fight.
//
// # Goroutines and time
//
// Run owns all goroutines and returns when they have ended. With everything registered there are no timers and no polling; directory
// watches (inotify) wake the Manager. Where they cannot be had it says so and looks every few seconds instead.
//
// # Logs
//
// The package registers no flags. The program registers klog's, once (klog.InitFlags), and parses them.
//
// The Manager logs through the klog logger of Run's context ([klog.FromContext]): registrations and the kubelet's restarts at V(0), its
// own life at V(1), every list that is sent at V(4). An error that repeats is logged when it first comes, when it changes, and
// then every ten minutes. That a kubelet which just made its socket does not listen to it yet is no error the first time.
//
// # Left out
//
// The package does not know where devices come from, does not make the kubelet's directory, and does not follow a rename of that
// directory's grandparents.
package kubeletapi
