// SPDX-License-Identifier: GPL-2.0
/* The drivers of the PFs and of Gen2 VFs, with the names of the real ones. */
#include <linux/debugfs.h>
#include <linux/delay.h>
#include <linux/iommu.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/seq_file.h>

#include "qat_sim.h"

#define MAXDRIVERS 24
#define MAXIDS 4

static struct sim_driver {
	struct pci_driver drv;
	struct pci_device_id ids[MAXIDS + 1];
	char name[16];
} drivers[MAXDRIVERS];
static int ndrivers;

static struct sim_pf *of(struct pci_dev *pdev)
{
	return sim_of_bus(pdev->bus);
}

/* Reading heartbeat/status performs a check. Too soon after the last one it only returns -1. */
static int heartbeat_show(struct seq_file *m, void *unused)
{
	struct sim_pf *s = m->private;
	unsigned long gap = msecs_to_jiffies(READ_ONCE(s->hb_timer));
	int status = -1;

	mutex_lock(&s->hb_lock);
	if (!s->up || s->in_reset)
		goto out;
	if (s->hb_read && time_before(jiffies, s->hb_last + gap))
		goto out;
	s->hb_last = jiffies;
	s->hb_read = true;
	s->sent++;
	if (s->hb_fail)
		s->failed++;
	else
		status = 0;
out:
	mutex_unlock(&s->hb_lock);
	seq_printf(m, "%d\n", status);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(heartbeat);

/* dev_cfg shows the services of Gen4 and later, also with qat_group=0. */
static int dev_cfg_show(struct seq_file *m, void *unused)
{
	struct sim_pf *s = m->private;
	char text[40] = "";

	mutex_lock(&s->lock);
	if (s->family->gen >= 4)
		sim_services_emit(s, text);
	mutex_unlock(&s->lock);
	seq_puts(m, "[GENERAL]\n");
	if (*text)
		seq_printf(m, "ServicesEnabled = %s", text);
	return 0;
}
DEFINE_SHOW_ATTRIBUTE(dev_cfg);

int sim_up(struct sim_pf *s)
{
	struct dentry *d;

	if (s->up)
		return 0;
	if (sim_updown_ms)
		msleep(sim_updown_ms);
	d = debugfs_create_dir("heartbeat", s->dbg);
	debugfs_create_file("status", 0400, d, s, &heartbeat_fops);
	debugfs_create_u32("queries_sent", 0400, d, &s->sent);
	debugfs_create_u32("queries_failed", 0400, d, &s->failed);
	s->hb_read = false;
	sim_telemetry_add(s);
	s->up = true;
	return 0;
}

void sim_down(struct sim_pf *s)
{
	if (!s->up)
		return;
	s->up = false;
	sim_telemetry_remove(s);
	debugfs_lookup_and_remove("heartbeat", s->dbg);
	if (sim_updown_ms)
		msleep(sim_updown_ms);
	pci_disable_sriov(s->pdev);	/* as the real driver does */
}

static int sim_sriov(struct pci_dev *pdev, int n)
{
	struct sim_pf *s = of(pdev);
	int ret = 0;

	mutex_lock(&s->lock);
	if (n && sim_iommu_strict && !device_iommu_mapped(&pdev->dev)) {
		dev_warn(&pdev->dev, "IOMMU should be enabled for SR-IOV to work correctly\n");
		ret = -EINVAL;
	} else if (s->in_use || s->in_reset) {
		ret = -EBUSY;
	} else {
		sim_down(s);
		pci_disable_sriov(pdev);
		sim_up(s);
		if (n)	/* the real driver ignores the number, too */
			ret = pci_enable_sriov(pdev, s->family->vfs) ?: s->family->vfs;
	}
	mutex_unlock(&s->lock);
	return ret;
}

static int sim_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct sim_pf *s;
	char name[40];
	int ret;

	if (pdev->bus->ops != &sim_ops)
		return -ENODEV;
	s = of(pdev);
	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	mutex_lock(&s->lock);
	s->pdev = pdev;
	s->up = false;
	s->hb_fail = s->in_use = s->in_reset = false;
	s->auto_reset = false;
	s->pm_idle = true;
	memset(s->ras, 0, sizeof(s->ras));
	if (s->family->gen >= 4)
		sim_services_default(s);
	snprintf(name, sizeof(name), "qat_%s_%s", s->family->driver, pci_name(pdev));
	s->dbg = debugfs_create_dir(name, NULL);
	debugfs_create_file("dev_cfg", 0400, s->dbg, s, &dev_cfg_fops);
	sim_up(s);
	mutex_unlock(&s->lock);
	return 0;
}

static void sim_remove(struct pci_dev *pdev)
{
	struct sim_pf *s = of(pdev);

	mutex_lock(&s->lock);
	sim_down(s);
	pci_disable_sriov(pdev);
	s->pdev = NULL;
	mutex_unlock(&s->lock);
	debugfs_remove(s->dbg);
}

static int sim_vf_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	return pdev->bus->ops == &sim_ops ? pcim_enable_device(pdev) : -ENODEV;
}

/* driver_for returns the driver of that name, which it adds if necessary. */
static struct sim_driver *driver_for(const char *name, const char *suffix)
{
	struct sim_driver *d;
	char full[sizeof(d->name)];

	snprintf(full, sizeof(full), "%s%s", name, suffix);
	for (d = drivers; d < drivers + ndrivers; d++)
		if (!strcmp(d->name, full))
			return d;
	if (ndrivers == MAXDRIVERS)
		return NULL;
	ndrivers++;
	strscpy(d->name, full, sizeof(d->name));
	d->drv.name = d->name;
	d->drv.id_table = d->ids;
	return d;
}

static int add_id(struct sim_driver *d, u16 device)
{
	struct pci_device_id *id;

	for (id = d->ids; id->vendor; id++)
		;
	if (id == d->ids + MAXIDS)
		return -ENOSPC;
	*id = (struct pci_device_id){ PCI_DEVICE(PCI_VENDOR_ID_INTEL, device) };
	return 0;
}

static int fill_drivers(void)
{
	const struct sim_family *f;
	struct sim_driver *d;
	int i;

	for (i = 0; (f = sim_family_at(i)); i++) {
		d = driver_for(f->driver, "");
		if (!d || add_id(d, f->pf))
			return -ENOSPC;
		d->drv.probe = sim_probe;
		d->drv.remove = sim_remove;
		d->drv.sriov_configure = sim_sriov;
		if (f->gen >= 4 && sim_qat_group)
			d->drv.dev_groups = sim_groups;
		if (f->gen >= 4 || !sim_vf_drivers)
			continue;	/* there is no in-tree driver for VFs of Gen4 and later */
		d = driver_for(f->driver, "vf");
		if (!d || add_id(d, f->vf))
			return -ENOSPC;
		d->drv.probe = sim_vf_probe;
	}
	return 0;
}

int sim_drivers_register(void)
{
	int i, ret = fill_drivers();

	for (i = 0; !ret && i < ndrivers; i++)
		ret = __pci_register_driver(&drivers[i].drv, THIS_MODULE, KBUILD_MODNAME);
	if (ret) {
		while (--i > 0)
			pci_unregister_driver(&drivers[i - 1].drv);
	}
	return ret;
}

void sim_drivers_unregister(void)
{
	int i;

	for (i = 0; i < ndrivers; i++)
		pci_unregister_driver(&drivers[i].drv);
}
