// SPDX-License-Identifier: GPL-2.0
/* Module parameters, initialization and exit. */
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "qat_sim.h"

static int npf = 2;
module_param(npf, int, 0444);
MODULE_PARM_DESC(npf, "number of PFs, up to 8");
static char *family[SIM_MAXPF];
module_param_array(family, charp, NULL, 0444);
MODULE_PARM_DESC(family, "family of each PF: 4xxx (default), 401xx, 402xx, 420xx, 6xxx, c6xx, c3xxx, dh895xcc, 200xx, d15xx, c4xxx");
static int numa[SIM_MAXPF] = { [0 ... SIM_MAXPF - 1] = NUMA_NO_NODE };
module_param_array(numa, int, NULL, 0444);
MODULE_PARM_DESC(numa, "NUMA node of each PF, or -1 (default) for none");
static int buses[SIM_MAXPF] = { 0x6b, 0x70, 0x75, 0x7a, 0x80, 0x85, 0x8a, 0x90 };
module_param_array(buses, int, NULL, 0444);
MODULE_PARM_DESC(buses, "bus number of each PF");
static int domains[SIM_MAXPF];
module_param_array(domains, int, NULL, 0444);
MODULE_PARM_DESC(domains, "PCI domain of each PF; only domain 0 has an IOMMU");
static ulong window = 0xc000000000UL;
module_param(window, ulong, 0444);
MODULE_PARM_DESC(window, "address of the PFs' memory windows, 64 MiB each; must be unused");
bool sim_iommu_strict = true;
module_param_named(iommu_strict, sim_iommu_strict, bool, 0644);
MODULE_PARM_DESC(iommu_strict, "refuse to enable VFs without an IOMMU, like newer kernels");
bool sim_services_as_written;
module_param_named(services_as_written, sim_services_as_written, bool, 0644);
MODULE_PARM_DESC(services_as_written, "show cfg_services as written, like older kernels, instead of in the order asym;sym;dc");
bool sim_vf_drivers = true;
module_param_named(vf_drivers, sim_vf_drivers, bool, 0444);
MODULE_PARM_DESC(vf_drivers, "register drivers for Gen2 VFs");
bool sim_qat_group = true;
module_param_named(qat_group, sim_qat_group, bool, 0444);
MODULE_PARM_DESC(qat_group, "show qat/ and qat_ras/ for Gen4 and later, unlike kernels before 6.0");
int sim_updown_ms;
module_param_named(updown_ms, sim_updown_ms, int, 0644);
MODULE_PARM_DESC(updown_ms, "duration of a change of state, in ms");

static struct sim_pf *pfs[SIM_MAXPF];

static int add_pf(int i)
{
	const struct sim_family *f = sim_family_find(family[i] ?: "4xxx");
	struct sim_pf *s;
	int ret;

	if (!f) {
		pr_err("qat_sim: unknown family %s\n", family[i]);
		return -EINVAL;
	}
	s = kzalloc(sizeof(*s), GFP_KERNEL);
	if (!s)
		return -ENOMEM;
	mutex_init(&s->lock);
	mutex_init(&s->hb_lock);
	s->family = f;
	s->hb_timer = f->gen >= 4 ? 200 : 500;
	s->idx = i;
	s->sd.domain = domains[i];
	s->sd.node = numa[i];
	ret = sim_bus_add(s, buses[i], window + (resource_size_t)i * SZ_64M);
	if (ret) {
		kfree(s);
		return ret;
	}
	sim_control_add(s);
	pfs[i] = s;
	return 0;
}

static void sim_exit(void)
{
	int i;

	sim_control_exit();	/* waits for writes in progress */
	for (i = 0; i < SIM_MAXPF; i++) {
		if (!pfs[i])
			continue;
		sim_bus_remove(pfs[i]);
		kfree(pfs[i]);
	}
	sim_drivers_unregister();
}

static int __init sim_init(void)
{
	int i, ret;

	if (npf < 0 || npf > SIM_MAXPF)
		return -EINVAL;
	ret = sim_drivers_register();
	if (ret)
		return ret;
	sim_control_init();
	for (i = 0; i < npf; i++) {
		ret = add_pf(i);
		if (ret) {
			sim_exit();
			return ret;
		}
	}
	return 0;
}

module_init(sim_init);
module_exit(sim_exit);
MODULE_LICENSE("GPL");
MODULE_VERSION("0.6.0"); /* ADF_DRV_VERSION of the QAT drivers (qat_common/adf_common_drv.h) */
MODULE_DESCRIPTION("Intel QAT physical functions without the hardware, for tests");
