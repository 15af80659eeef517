// SPDX-License-Identifier: GPL-2.0
/* The sysfs groups qat/ and qat_ras/ of a bound PF of Gen4 or later. */
#include <linux/device.h>
#include <linux/kstrtox.h>
#include <linux/pci.h>
#include <linux/sysfs.h>

#include "qat_sim.h"

static struct sim_pf *of(struct device *d)
{
	return sim_of_bus(to_pci_dev(d)->bus);
}

static ssize_t state_show(struct device *d, struct device_attribute *a, char *page)
{
	return sysfs_emit(page, "%s\n", of(d)->up ? "up" : "down");
}

/* Like state_store() of adf_sysfs.c: a busy device refuses any write, before the word is parsed. */
static ssize_t state_store(struct device *d, struct device_attribute *a, const char *page, size_t n)
{
	struct sim_pf *s = of(d);
	int ret = 0;

	mutex_lock(&s->lock);
	if (!s->pdev)			/* the PF is being removed */
		ret = -ENODEV;
	else if (s->in_use || s->in_reset)
		ret = -EBUSY;
	else if (sysfs_streq(page, "up"))
		ret = sim_up(s);
	else if (sysfs_streq(page, "down"))
		sim_down(s);
	else
		ret = -EINVAL;
	mutex_unlock(&s->lock);
	return ret ?: n;
}

static ssize_t cfg_services_show(struct device *d, struct device_attribute *a, char *page)
{
	return sim_services_emit(of(d), page);
}

static ssize_t cfg_services_store(struct device *d, struct device_attribute *a, const char *page, size_t n)
{
	struct sim_pf *s = of(d);
	int ret;

	mutex_lock(&s->lock);
	ret = s->up ? -EINVAL : sim_services_set(s, page);
	mutex_unlock(&s->lock);
	return ret ?: n;
}

static ssize_t pm_idle_enabled_show(struct device *d, struct device_attribute *a, char *page)
{
	return sysfs_emit(page, "%d\n", of(d)->pm_idle);
}

static ssize_t pm_idle_enabled_store(struct device *d, struct device_attribute *a, const char *page, size_t n)
{
	struct sim_pf *s = of(d);
	bool value;
	int ret = kstrtobool(page, &value);

	if (ret)
		return ret;
	mutex_lock(&s->lock);
	if (s->up)
		ret = -EINVAL;
	else
		s->pm_idle = value;
	mutex_unlock(&s->lock);
	return ret ?: n;
}

static ssize_t auto_reset_show(struct device *d, struct device_attribute *a, char *page)
{
	return sysfs_emit(page, "%s\n", of(d)->auto_reset ? "on" : "off");
}

/* Like auto_reset_store() of adf_sysfs.c, which accepts a write in any state of the device. */
static ssize_t auto_reset_store(struct device *d, struct device_attribute *a, const char *page, size_t n)
{
	int ret = kstrtobool(page, &of(d)->auto_reset);

	return ret ?: n;
}

static DEVICE_ATTR_RW(state);
static DEVICE_ATTR_RW(cfg_services);
static DEVICE_ATTR_RW(pm_idle_enabled);
static DEVICE_ATTR_RW(auto_reset);
static struct attribute *qat_attrs[] = {
	&dev_attr_state.attr, &dev_attr_cfg_services.attr, &dev_attr_pm_idle_enabled.attr,
	&dev_attr_auto_reset.attr, NULL,
};
static const struct attribute_group qat_group = { .name = "qat", .attrs = qat_attrs };

static ssize_t errors_correctable_show(struct device *d, struct device_attribute *a, char *page)
{
	return sysfs_emit(page, "%u\n", of(d)->ras[0]);
}

static ssize_t errors_nonfatal_show(struct device *d, struct device_attribute *a, char *page)
{
	return sysfs_emit(page, "%u\n", of(d)->ras[1]);
}

static ssize_t errors_fatal_show(struct device *d, struct device_attribute *a, char *page)
{
	return sysfs_emit(page, "%u\n", of(d)->ras[2]);
}

static ssize_t reset_error_counters_store(struct device *d, struct device_attribute *a, const char *page, size_t n)
{
	struct sim_pf *s = of(d);

	if (!sysfs_streq(page, "1"))
		return -EINVAL;
	mutex_lock(&s->lock);
	memset(s->ras, 0, sizeof(s->ras));
	mutex_unlock(&s->lock);
	return n;
}

static DEVICE_ATTR_RO(errors_correctable);
static DEVICE_ATTR_RO(errors_nonfatal);
static DEVICE_ATTR_RO(errors_fatal);
static DEVICE_ATTR_WO(reset_error_counters);
static struct attribute *ras_attrs[] = {
	&dev_attr_errors_correctable.attr, &dev_attr_errors_nonfatal.attr, &dev_attr_errors_fatal.attr,
	&dev_attr_reset_error_counters.attr, NULL,
};
static const struct attribute_group ras_group = { .name = "qat_ras", .attrs = ras_attrs };

const struct attribute_group *sim_groups[] = { &qat_group, &ras_group, NULL };
