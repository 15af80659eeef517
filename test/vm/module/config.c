// SPDX-License-Identifier: GPL-2.0
/* The configuration space in memory, and the root bus through which it is accessed. */
#include <linux/mm.h>
#include <linux/pci.h>
#include <linux/sizes.h>

#include "qat_sim.h"

#define CAP_PCIE 0x40
#define CAP_SRIOV 0x100

static void put8(struct sim_fn *f, int at, u8 value, u8 writable)
{
	f->v[at] = value;
	f->w[at] = writable;
}

static void put16(struct sim_fn *f, int at, u16 value, u16 writable)
{
	put8(f, at, value, writable);
	put8(f, at + 1, value >> 8, writable >> 8);
}

static void put32(struct sim_fn *f, int at, u32 value, u32 writable)
{
	put16(f, at, value, writable);
	put16(f, at + 2, value >> 16, writable >> 16);
}

static void put_bar64(struct sim_fn *f, int at, u32 size, u32 flags)
{
	put32(f, at, flags | PCI_BASE_ADDRESS_MEM_TYPE_64, ~(size - 1));
	put32(f, at + 4, 0, ~0);
}

static u16 get16(struct sim_fn *f, int at)
{
	return f->v[at] | f->v[at + 1] << 8;
}

static void build_header(struct sim_fn *f, u16 vendor, u16 device)
{
	put16(f, PCI_VENDOR_ID, vendor, 0);
	put16(f, PCI_DEVICE_ID, device, 0);
	put16(f, PCI_COMMAND, 0, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_INTX_DISABLE);
	put16(f, PCI_STATUS, PCI_STATUS_CAP_LIST, 0);
	put32(f, PCI_CLASS_REVISION, 0x0b400040, 0);	/* co-processor, revision 0x40 */
	put16(f, PCI_SUBSYSTEM_VENDOR_ID, PCI_VENDOR_ID_INTEL, 0);
	put8(f, PCI_CAPABILITY_LIST, CAP_PCIE, 0);
	put8(f, CAP_PCIE, PCI_CAP_ID_EXP, 0);
	put16(f, CAP_PCIE + PCI_EXP_FLAGS, 2 | PCI_EXP_TYPE_RC_END << 4, 0);
	put32(f, CAP_PCIE + PCI_EXP_DEVCAP, PCI_EXP_DEVCAP_RBER | PCI_EXP_DEVCAP_FLR, 0);
	put16(f, CAP_PCIE + PCI_EXP_DEVCTL, 0, 0x7fff);	/* all but the FLR bit, which reads as zero */
}

/* sim_config_reset sets the configuration space of the PF and its VFs to its state at power-on. */
void sim_config_reset(struct sim_pf *s)
{
	struct sim_fn *f = s->fn;
	int i;

	memset(f, 0, sizeof(*f) * (s->family->vfs + 1));
	build_header(f, PCI_VENDOR_ID_INTEL, s->family->pf);
	put_bar64(f, PCI_BASE_ADDRESS_0, SZ_256K, PCI_BASE_ADDRESS_MEM_PREFETCH);
	put_bar64(f, PCI_BASE_ADDRESS_2, SZ_4M, 0);
	put_bar64(f, PCI_BASE_ADDRESS_4, SZ_1M, 0);
	put32(f, CAP_SRIOV, PCI_EXT_CAP_ID_SRIOV | 1 << 16, 0);
	put16(f, CAP_SRIOV + PCI_SRIOV_CTRL, 0, 0x1f);
	put16(f, CAP_SRIOV + PCI_SRIOV_INITIAL_VF, s->family->vfs, 0);
	put16(f, CAP_SRIOV + PCI_SRIOV_TOTAL_VF, s->family->vfs, 0);
	put16(f, CAP_SRIOV + PCI_SRIOV_NUM_VF, 0, ~0);
	put16(f, CAP_SRIOV + PCI_SRIOV_VF_OFFSET, 1, 0);
	put16(f, CAP_SRIOV + PCI_SRIOV_VF_STRIDE, 1, 0);
	put16(f, CAP_SRIOV + PCI_SRIOV_VF_DID, s->family->vf, 0);
	put32(f, CAP_SRIOV + PCI_SRIOV_SUP_PGSIZE, 0x553, 0);
	put32(f, CAP_SRIOV + PCI_SRIOV_SYS_PGSIZE, 1, ~0);
	put_bar64(f, CAP_SRIOV + PCI_SRIOV_BAR, SZ_8K, 0);
	put_bar64(f, CAP_SRIOV + PCI_SRIOV_BAR + 8, SZ_4K, 0);
	/* A VF's vendor and device read as all-ones; the PCI core takes the ID from the PF. */
	for (i = 1; i <= s->family->vfs; i++)
		build_header(f + i, 0xffff, 0xffff);
}

/* lookup returns NULL for a function that does not respond: absent, or a VF that is not enabled. */
static struct sim_fn *lookup(struct pci_bus *bus, unsigned int devfn)
{
	struct sim_pf *s = sim_of_bus(bus);

	if (bus->number != s->busn.start || !READ_ONCE(s->present))
		return NULL;
	if (!devfn)
		return s->fn;
	if (devfn > s->family->vfs || devfn > get16(s->fn, CAP_SRIOV + PCI_SRIOV_NUM_VF) ||
	    !(s->fn->v[CAP_SRIOV + PCI_SRIOV_CTRL] & PCI_SRIOV_CTRL_VFE))
		return NULL;
	return s->fn + devfn;
}

static int sim_read(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 *val)
{
	struct sim_fn *f = lookup(bus, devfn);
	int i;

	*val = ~0;
	if (!f || where + size > SIM_CFG)
		return PCIBIOS_DEVICE_NOT_FOUND;
	for (*val = 0, i = 0; i < size; i++)
		*val |= (u32)f->v[where + i] << (8 * i);
	return PCIBIOS_SUCCESSFUL;
}

static int sim_write(struct pci_bus *bus, unsigned int devfn, int where, int size, u32 val)
{
	struct sim_fn *f = lookup(bus, devfn);
	int i;

	if (!f || where + size > SIM_CFG)
		return PCIBIOS_DEVICE_NOT_FOUND;
	for (i = 0; i < size; i++, val >>= 8)
		f->v[where + i] = (f->v[where + i] & ~f->w[where + i]) | (val & f->w[where + i]);
	return PCIBIOS_SUCCESSFUL;
}

struct pci_ops sim_ops = { .read = sim_read, .write = sim_write };

/* sim_bus_add creates the root bus and scans it. The BARs of the PF are placed in the window. */
int sim_bus_add(struct sim_pf *s, int bus, resource_size_t window)
{
	LIST_HEAD(res);

	s->fn = kvcalloc(s->family->vfs + 1, sizeof(*s->fn), GFP_KERNEL);
	if (!s->fn)
		return -ENOMEM;
	sim_config_reset(s);
	s->present = true;
	s->busn = (struct resource){
		.name = "qat_sim bus", .start = bus, .end = bus, .flags = IORESOURCE_BUS,
	};
	s->mem = (struct resource){
		.name = "qat_sim mem", .start = window, .end = window + SZ_64M - 1,
		.flags = IORESOURCE_MEM | IORESOURCE_MEM_64,
	};
	if (request_resource(&iomem_resource, &s->mem)) {
		pr_err("qat_sim: memory window %pR is in use\n", &s->mem);
		kvfree(s->fn);
		return -EBUSY;
	}
	pci_add_resource(&res, &s->mem);
	pci_add_resource(&res, &s->busn);
	pci_lock_rescan_remove();
	s->bus = pci_create_root_bus(NULL, bus, &sim_ops, &s->sd, &res);
	if (s->bus) {
		pci_scan_child_bus(s->bus);
		pci_assign_unassigned_bus_resources(s->bus);
		pci_bus_add_devices(s->bus);
	}
	pci_unlock_rescan_remove();
	if (s->bus)
		return 0;
	pci_free_resource_list(&res);
	release_resource(&s->mem);
	kvfree(s->fn);
	return -ENODEV;
}

void sim_bus_remove(struct sim_pf *s)
{
	pci_lock_rescan_remove();
	pci_stop_root_bus(s->bus);
	pci_remove_root_bus(s->bus);
	pci_unlock_rescan_remove();
	release_resource(&s->mem);
	kvfree(s->fn);
}
