/* SPDX-License-Identifier: GPL-2.0 */
/*
 * qat_sim: Intel QAT physical functions without the hardware.
 *
 * Each PF sits alone on a root bus of its own, like the root-complex-integrated
 * endpoints of a Sapphire Rapids socket. Its configuration space lives in memory
 * (config.c); everything above is the real PCI core: enumeration, SR-IOV, sysfs,
 * uevents, IOMMU groups, vfio-pci. A pci_driver with the name of the real one
 * (driver.c) shows the real one's sysfs and debugfs. The tests steer it through
 * debugfs (control.c).
 */
#ifndef QAT_SIM_H
#define QAT_SIM_H

#include <linux/mutex.h>
#include <linux/pci.h>

#define SIM_MAXPF 8
#define SIM_CFG 4096

/* What one kind of QAT device looks like; the table is in family.c. */
struct sim_family {
	const char *name;	/* of the product, and the value of the parameter "family" */
	const char *driver;	/* of the PF; the VF's is this and "vf" */
	u16 pf, vf;		/* PCI device IDs, vendor 8086 */
	u8 vfs;			/* VFs of a PF */
	u8 gen;			/* 2, 4 or 6: from 4 on there is a qat/ group */
};

/* The configuration space of one function: values, and which bits software may write. */
struct sim_fn {
	u8 v[SIM_CFG], w[SIM_CFG];
};

/* One PF, its bus and its VFs. */
struct sim_pf {
	struct pci_sysdata sd;	/* first: what bus->sysdata points to */
	const struct sim_family *family;
	int idx;
	struct resource mem, busn;
	struct pci_bus *bus;
	struct sim_fn *fn;	/* [0] the PF, [1..vfs] the VFs */
	bool present;		/* answers configuration reads */

	/* of the driver, while bound */
	struct mutex lock;	/* held while the state changes */
	struct pci_dev *pdev;	/* NULL when not bound */
	struct dentry *dbg;	/* qat_<driver>_<PF>/ */
	bool up;
	unsigned int services;	/* a set of the services of driver.c */
	char words[32];		/* the set as it was written */
	struct mutex hb_lock;	/* of the heartbeat's four; the state's lock cannot be: removing a file waits for its readers */
	unsigned long hb_last;	/* jiffies of the last heartbeat read */
	bool hb_read;		/* hb_last is valid */
	u32 sent, failed;
	u32 ras[3];		/* correctable, nonfatal, fatal */

	/* of the test */
	struct dentry *ctl;	/* debugfs qat_sim/<idx>/ */
	bool hb_fail;		/* heartbeat reads -1 */
	bool in_use;		/* the kernel's crypto API uses the device */
	bool in_reset;		/* a reset is under way */
};

/* main.c: parameters */
extern bool sim_iommu_strict, sim_services_as_written, sim_vf_drivers, sim_qat_group;
extern int sim_updown_ms;

/* family.c */
const struct sim_family *sim_family_find(const char *name);
const struct sim_family *sim_family_at(unsigned int i);	/* NULL past the end */

/* config.c */
extern struct pci_ops sim_ops;
int sim_bus_add(struct sim_pf *s, int bus, resource_size_t window);
void sim_bus_remove(struct sim_pf *s);
void sim_config_reset(struct sim_pf *s);
static inline struct sim_pf *sim_of_bus(struct pci_bus *bus)
{
	return container_of(to_pci_sysdata(bus), struct sim_pf, sd);
}

/* services.c */
void sim_services_default(struct sim_pf *s);
int sim_services_set(struct sim_pf *s, const char *words);	/* "sym;dc" */
int sim_services_emit(struct sim_pf *s, char *page);

/* attributes.c */
extern const struct attribute_group *sim_groups[];

/* driver.c: sim_up and sim_down with s->lock held */
int sim_up(struct sim_pf *s);
void sim_down(struct sim_pf *s);
int sim_drivers_register(void);
void sim_drivers_unregister(void);

/* control.c */
void sim_control_init(void);
void sim_control_add(struct sim_pf *s);
void sim_control_exit(void);

#endif
