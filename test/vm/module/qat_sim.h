/* SPDX-License-Identifier: GPL-2.0 */
/*
 * qat_sim: Intel QAT physical functions without the hardware.
 *
 * Each PF is the only device on a root bus of its own, like the root complex
 * integrated endpoints of a Sapphire Rapids socket. Its configuration space is in
 * memory (config.c). Everything above that is the real PCI core: enumeration,
 * SR-IOV, sysfs, uevents, IOMMU groups, vfio-pci. A pci_driver with the name of
 * the real one provides the same files in sysfs and debugfs (driver.c). Tests
 * control the PFs through debugfs (control.c).
 */
#ifndef QAT_SIM_H
#define QAT_SIM_H

#include <linux/mutex.h>
#include <linux/pci.h>

#define SIM_MAXPF 8
#define SIM_CFG 4096

/* A family of QAT devices; the table is in family.c. */
struct sim_family {
	const char *name;	/* value of the parameter "family" */
	const char *driver;	/* of PFs; that of VFs has the suffix "vf" */
	u16 pf, vf;		/* PCI device IDs, vendor 8086 */
	u8 vfs;			/* VFs of each PF */
	u8 gen;			/* 2, 4 or 6; 2 has no group qat/ */
};

/* The configuration space of one function: its values, and a mask of the writable bits. */
struct sim_fn {
	u8 v[SIM_CFG], w[SIM_CFG];
};

/* One PF, its bus and its VFs. */
struct sim_pf {
	struct pci_sysdata sd;	/* bus->sysdata points to it */
	const struct sim_family *family;
	int idx;
	struct resource mem, busn;
	struct pci_bus *bus;
	struct sim_fn *fn;	/* [0]: the PF, [1..vfs]: its VFs */
	bool present;		/* responds to configuration reads */

	/* State of the driver. */
	struct mutex lock;	/* held while the state changes */
	struct pci_dev *pdev;	/* NULL if not bound */
	struct dentry *dbg;	/* qat_<driver>_<PF>/ */
	bool up;
	unsigned int services;	/* bit mask, see services.c */
	char words[32];		/* the services as they were written */
	bool auto_reset, pm_idle;
	u32 ras[3];		/* correctable, nonfatal, fatal */

	/*
	 * hb_lock guards the heartbeat. lock cannot: it is held while
	 * heartbeat/ is removed, which waits for readers.
	 */
	struct mutex hb_lock;
	unsigned long hb_last;	/* jiffies of the last check */
	bool hb_read;		/* hb_last is valid */
	u32 sent, failed;	/* checks performed and failed */

	unsigned int telemetry;	/* telemetry/control */

	/* Set by tests. */
	struct dentry *ctl;	/* debugfs qat_sim/<idx>/ */
	bool hb_fail;		/* heartbeat checks fail */
	u32 hb_timer;		/* time between two heartbeat checks, in ms */
	bool in_use;		/* by the kernel's crypto API */
	bool in_reset;
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

/* driver.c; s->lock is held during sim_up and sim_down */
int sim_up(struct sim_pf *s);
void sim_down(struct sim_pf *s);
int sim_drivers_register(void);
void sim_drivers_unregister(void);

/* telemetry.c; s->lock is held */
void sim_telemetry_add(struct sim_pf *s);
void sim_telemetry_remove(struct sim_pf *s);

/* control.c */
void sim_control_init(void);
void sim_control_add(struct sim_pf *s);
void sim_control_exit(void);

#endif
