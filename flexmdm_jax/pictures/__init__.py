"""Pictures: figures by Matplotlib, and a page that plays a sample."""
